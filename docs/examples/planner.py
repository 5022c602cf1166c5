"""A language model for the how-to pages that plans: no model at all, but it speaks the protocol of OpenAI.

    python docs/examples/planner.py --port 9000

POST /v1/chat/completions   always the same plan
"""

import argparse
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PLAN = {
    "steps": [
        {"id": "double", "node": "transform.map", "with": {"value": "{{ input.n * 2 }}"}},
        {"id": "text", "node": "transform.map", "with": {"value": "It is {{ steps.double.output }}."}},
    ],
    "summary": "Doubles the number.",
}
USAGE = {"prompt_tokens": 1000, "completion_tokens": 200, "total_tokens": 1200}


class Desk(BaseHTTPRequestHandler):
    """Where questions are answered."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:  # noqa: D102
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", "0"))))
        message = {"role": "assistant", "content": json.dumps(PLAN), "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        answer = {"id": "c-1", "object": "chat.completion", "created": 1, "model": body["model"], "choices": [choice]}
        raw = json.dumps({**answer, "usage": USAGE}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the page's output free of it."""


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    ThreadingHTTPServer(("127.0.0.1", parser.parse_args().port), Desk).serve_forever()
