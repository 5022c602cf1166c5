"""A small shop for the tutorial and the how-to pages.

    python docs/examples/shop.py --port 9000

GET  /orders?customer=NAME   the customer's open orders
GET  /stock                  fails with 503 twice, then answers
GET  /slow?seconds=S         answers after S seconds
POST /invoices               makes an invoice; the same Idempotency-Key gives the same invoice
GET  /invoices               all invoices
POST /refunds                needs the header `Authorization: Bearer shop-token-1234`
"""

import argparse
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "shop-token-1234"  # noqa: S105 -- no secret: it stands in the documentation
ORDERS = [
    {"id": "A-1", "item": "lamp", "total": 40},
    {"id": "A-2", "item": "desk", "total": 180},
    {"id": "A-3", "item": "chair", "total": 95},
]


class Shop(ThreadingHTTPServer):
    """The server with what it remembers."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), Counter)
        self.lock = threading.Lock()
        self.invoices: dict[str, dict[str, Any]] = {}
        self.stock_calls = 0
        self.calls: list[str] = []


class Counter(BaseHTTPRequestHandler):
    """Where customers are served."""

    server: Shop

    def do_GET(self) -> None:  # noqa: D102
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        with self.server.lock:
            self.server.calls.append(f"GET {url.path}")
        if url.path == "/orders":
            self.answer(200, {"customer": query.get("customer", ""), "orders": ORDERS})
        elif url.path == "/invoices":
            self.answer(200, list(self.server.invoices.values()))
        elif url.path == "/slow":
            time.sleep(float(query.get("seconds", "1")))
            self.answer(200, {"slept": True})
        elif url.path == "/stock":
            with self.server.lock:
                self.server.stock_calls += 1
                busy = self.server.stock_calls <= 2
            self.answer(503 if busy else 200, {"error": "busy"} if busy else {"lamp": 7})
        else:
            self.answer(404, {"error": "there is no such page"})

    def do_POST(self) -> None:  # noqa: D102
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", "0"))) or b"null")
        with self.server.lock:
            self.server.calls.append(f"POST {self.path}")
        if self.path == "/invoices":
            with self.server.lock:
                number = f"INV-{len(self.server.invoices) + 1}"
                key = self.headers.get("Idempotency-Key", number)
                invoice = self.server.invoices.setdefault(key, {"id": number, "for": body})
            self.answer(201, invoice)
        elif self.path == "/refunds":
            known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            self.answer(201 if known else 401, {"refunded": True} if known else {"error": "who are you?"})
        else:
            self.answer(404, {"error": "there is no such page"})

    def answer(self, status: int, value: Any) -> None:
        """Send a JSON answer."""
        raw = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:
        """Stay quiet."""


@contextmanager
def open_shop(port: int = 0) -> Iterator[Shop]:
    """A shop that serves until the block is left; port 0 takes a free one."""
    shop = Shop(port)
    thread = threading.Thread(target=shop.serve_forever)
    thread.start()
    try:
        yield shop
    finally:
        shop.shutdown()
        thread.join()
        shop.server_close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A small shop for the tutorial.")
    parser.add_argument("--port", type=int, default=9000)
    print("The shop is open. Ctrl+C closes it.", flush=True)
    Shop(parser.parse_args().port).serve_forever()
