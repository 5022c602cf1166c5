"""A language model for the how-to pages: no model at all, but it speaks the protocols of OpenAI and Anthropic.

    python docs/examples/model.py --port 9000

POST /v1/chat/completions, /v1/messages   answers; needs the key `model-key-1234`
POST /v1/embeddings                       a vector of two numbers for each text

A model named `busy` asks to slow down on every other call.
"""

import argparse
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "model-key-1234"
USAGE = {"prompt_tokens": 1000, "completion_tokens": 200, "total_tokens": 1200}
LIMITED = {"error": {"message": "slow down", "type": "requests", "code": "rate_limit_exceeded", "param": None}}


class Model(ThreadingHTTPServer):
    """The server with what it remembers."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), Desk)
        self.lock = threading.Lock()
        self.busy_calls = 0

    def is_busy(self) -> bool:
        """Whether to send the caller away this time."""
        with self.lock:
            self.busy_calls += 1
            return self.busy_calls % 2 == 1


class Desk(BaseHTTPRequestHandler):
    """Where questions are answered."""

    server: Model
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:  # noqa: D102
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", "0"))))
        if KEY not in (self.headers.get("x-api-key"), self.headers.get("Authorization", "").removeprefix("Bearer ")):
            self.answer(401, {"error": {"message": "Incorrect API key provided.", "type": "authentication_error"}})
        elif body["model"] == "busy" and self.server.is_busy():
            self.answer(429, LIMITED, {"Retry-After": "1"})
        elif self.path == "/v1/embeddings":
            data = [
                {"object": "embedding", "index": i, "embedding": [len(text), text.count(" ")]}
                for i, text in enumerate(body["input"])
            ]
            self.answer(200, {"object": "list", "data": data, "model": body["model"], "usage": USAGE})
        elif self.path == "/v1/messages":
            self.answer(200, _message(body))
        elif body.get("stream"):
            self.stream(body)
        else:
            self.answer(200, _completion(body))

    def answer(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        """Send a JSON answer."""
        raw = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {
            "Content-Type": "application/json",
            "Content-Length": str(len(raw)),
            **(headers or {}),
        }.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(raw)

    def stream(self, body: dict[str, Any]) -> None:
        """Send an answer piece by piece."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        chunk = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
        for word in _text(body).split(" "):
            self.event({**chunk, "choices": [{"index": 0, "delta": {"content": f"{word} "}, "finish_reason": None}]})
        self.event({**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        self.event({**chunk, "choices": [], "usage": USAGE})
        self.wfile.write(b"data: [DONE]\n\n")

    def event(self, value: Any) -> None:
        """Send one event of a stream."""
        self.wfile.write(f"data: {json.dumps(value)}\n\n".encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Stay quiet."""


def _text(body: dict[str, Any]) -> str:
    if "response_format" in body or "output_config" in body:
        return json.dumps({"mood": "angry", "urgent": True})
    return "The customer is angry."


def _completion(body: dict[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", "content": _text(body), "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    return {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [choice],
        "usage": USAGE,
    }


def _message(body: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "m1",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": [{"type": "text", "text": _text(body)}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 1000, "output_tokens": 200},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A language model for the how-to pages.")
    parser.add_argument("--port", type=int, default=9000)
    Model(parser.parse_args().port).serve_forever()
