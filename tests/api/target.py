"""The outside world: an HTTP server that workflows call, which keeps what it was asked and misbehaves on demand."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass
class Call:
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Target:
    """The server, and how it behaves.

    Attributes:
        fails: whether the n-th call of `/charge` (from 1) is answered with 503.
        answers: what paths that nobody else knows answer.
        slow: seconds that each call of `/charge` takes.
        most_at_once: calls of `/charge` that were there together.
    """

    url: str
    calls: list[Call] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)
    fails: Callable[[int], bool] = lambda number: False
    answers: dict[str, Any] = field(default_factory=dict)
    slow: float = 0.0
    most_at_once: int = 0
    _counting: threading.Lock = field(default_factory=threading.Lock)
    _charges: int = 0
    _at_once: int = 0

    def charge(self) -> bool:
        """Take a call of `/charge`; whether it succeeds."""
        with self._counting:
            self._charges += 1
            fails = self.fails(self._charges)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        self.closing.wait(self.slow)
        with self._counting:
            self._at_once -= 1
        return not fails

    def to(self, path: str) -> list[Call]:
        return [call for call in list(self.calls) if call.path == path]

    def wait_for(self, path: str, count: int = 1, seconds: float = 10.0) -> list[Call]:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if len(self.to(path)) >= count:
                return self.to(path)
            time.sleep(0.01)
        raise AssertionError(f"{path} was called {len(self.to(path))} times, not {count}")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    target: Target

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _serve(self) -> None:
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.target.calls.append(Call(self.command, url.path, query, headers, body, time.monotonic()))
        kind = url.path.split("/")[1]
        try:
            getattr(self, f"_{kind}", self._json)(url.path, query, headers, body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = _serve  # noqa: N815

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, path: str, query: Any, headers: dict[str, str], body: bytes) -> None:
        if path in self.target.answers:
            self._answer(200, json.dumps(self.target.answers[path]).encode())
            return
        value = query.get("value", ["7"])[0]
        self._answer(200, json.dumps({"value": int(value), "path": path}).encode())

    def _echo(self, path: str, query: Any, headers: dict[str, str], body: bytes) -> None:
        """All that was received, in the body and in headers."""
        status = int(path.split("/")[2]) if path.count("/") > 1 else 200
        back = {f"X-Echo-{name}": value for name, value in headers.items() if name not in ("host", "content-length")}
        back["X-Echo-Url"] = self.path
        told = {"url": self.path, "headers": headers, "body": body.decode(errors="replace"), "error": str(headers)}
        self._answer(status, json.dumps(told).encode(), back)

    def _hang(self, path: str, query: Any, headers: dict[str, str], body: bytes) -> None:
        self.target.closing.wait(60)
        self.close_connection = True

    def _trickle(self, path: str, query: Any, headers: dict[str, str], body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        for _ in range(60):
            self.wfile.write(b"x")
            self.wfile.flush()
            if self.target.closing.wait(0.5):
                break
        self.close_connection = True

    def _busy(self, path: str, query: Any, headers: dict[str, str], body: bytes) -> None:
        """`429` with `Retry-After: 1` at the first call, then well."""
        if len(self.target.to(path)) == 1:
            self._answer(429, b"{}", {"Retry-After": "1"})
        else:
            self._answer(200, b'{"value": 1}')

    def _charge(self, path: str, query: Any, headers: dict[str, str], body: bytes) -> None:
        """A payment provider's call."""
        if self.target.charge():
            self._answer(200, json.dumps({"id": headers.get("idempotency-key", ""), "paid": json.loads(body)}).encode())
        else:
            self._answer(503, b'{"error": "out of order"}')

    def _redirect(self, path: str, query: Any, headers: dict[str, str], body: bytes) -> None:
        self._answer(302, b"", {"Location": query["to"][0]})

    def _big(self, path: str, query: Any, headers: dict[str, str], body: bytes) -> None:
        self._answer(200, json.dumps("x" * int(query["size"][0])).encode())

    def _deep(self, path: str, query: Any, headers: dict[str, str], body: bytes) -> None:
        self._answer(200, b"[" * 20_000 + b"]" * 20_000)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Callers that go away in the middle are what some tests are about."""


@contextmanager
def target_server() -> Iterator[Target]:
    server = _Server(("127.0.0.1", 0), _Handler)
    target = Target(f"http://127.0.0.1:{server.server_address[1]}")
    server.RequestHandlerClass = type("Handler", (_Handler,), {"target": target})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield target
    finally:
        target.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
