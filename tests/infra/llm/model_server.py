"""A server on 127.0.0.1 that speaks the protocols of OpenAI (Chat Completions, Embeddings) and Anthropic (Messages).

Formats are those of the providers' references: whole answers, streams with all their kinds of events, error bodies and
headers. `mode` says what goes wrong.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

KEY = "sk-test-abcdef-0123456789"
TEXT = "Grüße\u2028aus \U0001f30d"
OPENAI = "openai"
ANTHROPIC = "anthropic"

_ERRORS = {
    "unauthorized": (401, "invalid_request_error", "authentication_error", "invalid_api_key"),
    "forbidden": (403, "invalid_request_error", "permission_error", "model_not_allowed"),
    "limited": (429, "requests", "rate_limit_error", "rate_limit_exceeded"),
    "limited_by_date": (429, "requests", "rate_limit_error", "rate_limit_exceeded"),
    "limited_by_window": (429, "tokens", "rate_limit_error", "rate_limit_exceeded"),
    "bad_request": (400, "invalid_request_error", "invalid_request_error", "unknown_parameter"),
    "too_long": (400, "invalid_request_error", "invalid_request_error", "context_length_exceeded"),
    "not_found": (404, "invalid_request_error", "not_found_error", "model_not_found"),
    "unprocessable": (422, "invalid_request_error", "invalid_request_error", None),
    "failing": (500, "server_error", "api_error", None),
    "bad_gateway": (502, "server_error", "api_error", None),
    "unavailable": (503, "server_error", "api_error", None),
    "overloaded": (529, "server_error", "overloaded_error", None),
}


@dataclass
class ModelServer:
    """`calls` are the requests' bodies, `headers` what came with the last one."""

    mode: str = "ok"
    text: str = TEXT
    calls: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    connections: int = 0
    port: int = 0
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def body(self) -> dict[str, Any]:
        return self.calls[-1]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, path, _ = head[0].split(" ")
        self.headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in head[1:] if line)}
        self.paths.append(path)
        body = json.loads(await reader.readexactly(int(self.headers.get("content-length", 0))))
        self.calls.append(body)
        known = {"/v1/chat/completions": OPENAI, "/v1/embeddings": OPENAI, "/v1/messages": ANTHROPIC}
        provider = known.get(path, OPENAI)
        if method != "POST" or path not in known:
            return await self._json(writer, 404, _error(provider, 404, "x", "not_found_error", None, "no such path"))
        if provider == ANTHROPIC and ("anthropic-version" not in self.headers or "max_tokens" not in body):
            return await self._json(writer, 400, _error(provider, 400, "", "invalid_request_error", None, "incomplete"))
        if self.mode in _ERRORS:
            return await self._failure(writer, provider)
        if self.mode == "slow":
            self.waiting.set()
            await reader.read(1)  # until the caller hangs up
            self.left.set()
            return False
        if self.mode == "redirect":
            return await self._json(writer, 307, {}, ("location: http://169.254.169.254/latest",))
        if self.mode == "compressed":
            return await self._json(writer, 200, {}, ("content-encoding: gzip",))
        if self.mode == "garbage" and not body.get("stream"):
            return await self._raw(writer, 200, b'{"id": "x", "choices": [{', ("content-type: application/json",))
        if self.mode == "page":
            return await self._raw(writer, 200, b"<html>proxy</html>", ("content-type: text/html",))
        if self.mode == "empty":
            return await self._json(writer, 200, {"hello": 1})
        if self.mode == "error_as_answer":
            return await self._json(
                writer, 200, _error(provider, 529, "server_error", "overloaded_error", None, "busy")
            )
        if path == "/v1/embeddings":
            return await self._json(writer, 200, _embeddings(body, self.mode))
        if body.get("stream"):
            return await self._stream(reader, writer, provider, body)
        whole = _completion(self, body) if provider == OPENAI else _message(self, body)
        return await self._json(writer, 200, whole)

    async def _failure(self, writer: asyncio.StreamWriter, provider: str) -> bool:
        status, openai_type, anthropic_type, code = _ERRORS[self.mode]
        message = f"It went wrong for {self.headers.get('authorization') or self.headers.get('x-api-key')}."
        if self.mode == "too_long" and provider == ANTHROPIC:
            message = "prompt is too long: 208310 tokens > 200000 maximum"
        headers: tuple[str, ...] = ()
        if self.mode == "limited":
            headers = ("retry-after: 7",)
        elif self.mode == "limited_by_date":
            headers = ("retry-after: Wed, 21 Oct 2065 07:28:00 GMT",)
        elif self.mode == "limited_by_window" and provider == OPENAI:
            headers = ("x-ratelimit-remaining-tokens: 0", "x-ratelimit-reset-tokens: 1m30s")
        elif self.mode == "limited_by_window":
            headers = (
                "anthropic-ratelimit-tokens-remaining: 0",
                "anthropic-ratelimit-tokens-reset: 2026-03-14T09:01:30Z",
            )
        elif self.mode == "unavailable":
            headers = ("retry-after-ms: 1500",)
        error = _error(provider, status, openai_type, anthropic_type, code, message)
        return await self._json(writer, status, error, headers)

    async def _stream(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, provider: str, body: dict[str, Any]
    ) -> bool:
        chunked = self.mode != "cut_without_trace"
        framing = "transfer-encoding: chunked" if chunked else "connection: close"
        writer.write(f"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n{framing}\r\n\r\n".encode())
        events = list(_openai_events(self, body) if provider == OPENAI else _anthropic_events(self, body))
        half = len(events) // 2
        for number, event in enumerate(events):
            raw = event.encode()
            if number == half and self.mode in {"cut", "cut_without_trace"}:
                await writer.drain()
                return False
            if number == half and self.mode == "hang":
                await writer.drain()
                self.waiting.set()
                await reader.read(1)
                self.left.set()
                return False
            if number == half and self.mode == "garbage":
                raw = event.partition("data: ")[0].encode() + b'data: {"id": \n\n'
            if number == half and self.mode == "error_in_stream":
                error = _error(provider, 529, "server_error", "overloaded_error", None, "Overloaded")
                raw = (f"data: {json.dumps(error)}\n\n" if provider == OPENAI else _event("error", error)).encode()
            # Cut where it hurts: inside characters and lines.
            for piece in (raw[: len(raw) // 2], raw[len(raw) // 2 :]):
                writer.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked and piece else piece)
                await writer.drain()
                await asyncio.sleep(0)
        writer.write(b"0\r\n\r\n" if chunked else b"")
        await writer.drain()
        return chunked

    async def _json(self, writer: asyncio.StreamWriter, status: int, value: Any, headers: tuple[str, ...] = ()) -> bool:
        raw = json.dumps(value, ensure_ascii=False).encode()
        return await self._raw(writer, status, raw, ("content-type: application/json", *headers))

    async def _raw(self, writer: asyncio.StreamWriter, status: int, raw: bytes, headers: tuple[str, ...]) -> bool:
        lines = "\r\n".join((f"HTTP/1.1 {status} X", f"content-length: {len(raw)}", *headers))
        writer.write(lines.encode() + b"\r\n\r\n" + raw)
        await writer.drain()
        return True

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()


@asynccontextmanager
async def model_server() -> AsyncIterator[ModelServer]:
    server = ModelServer()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        server.close()
        await listening.wait_closed()
        await asyncio.sleep(0)


def _error(
    provider: str, status: int, openai_type: str, anthropic_type: str, code: str | None, message: str
) -> dict[str, Any]:
    if provider == OPENAI:
        return {
            "error": {
                "message": message,
                "type": openai_type,
                "param": None,
                "code": code or (status if status == 529 else None),
            }
        }
    return {"type": "error", "error": {"type": anthropic_type, "message": message}, "request_id": "req_011"}


def _embeddings(body: dict[str, Any], mode: str) -> dict[str, Any]:
    assert body["encoding_format"] == "float"
    data = [
        {"object": "embedding", "index": index, "embedding": [float(len(text)), 0.5, -1e-9]}
        for index, text in enumerate(body["input"])
    ]
    if mode == "missing":
        data.pop()
    return {
        "object": "list",
        "data": data[::-1],
        "model": f"{body['model']}-001",
        "usage": {"prompt_tokens": 11, "total_tokens": 11},
    }


_TOOL_ARGUMENTS = '{"city": "Köln", "days": 2}'


def _openai_usage(mode: str) -> dict[str, Any]:
    return {
        "prompt_tokens": -1 if mode == "miscounted" else 30,
        "completion_tokens": 12,
        "total_tokens": 42,
        "prompt_tokens_details": {"cached_tokens": 20, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 5, "audio_tokens": 0},
    }


def _openai_finish(server: ModelServer, body: dict[str, Any]) -> str:
    return "tool_calls" if body.get("tools") else "length" if server.mode == "truncated" else "stop"


def _completion(server: ModelServer, body: dict[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": server.text, "refusal": None, "annotations": []}
    if server.mode == "refusal":
        message |= {"content": None, "refusal": "I will not."}
    if body.get("tools"):
        call = {
            "id": "call_1",
            "type": "function",
            "function": {"name": body["tools"][0]["function"]["name"], "arguments": _TOOL_ARGUMENTS},
        }
        message |= {"content": None, "tool_calls": [call]}
    return {
        "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
        "object": "chat.completion",
        "created": 1741569952,
        "model": f"{body['model']}-2026-01-01",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": _openai_finish(server, body)}],
        "usage": _openai_usage(server.mode),
        "service_tier": "default",
        "system_fingerprint": None,
    }


def _openai_events(server: ModelServer, body: dict[str, Any]) -> list[str]:
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": "", "refusal": None}]
    if body.get("tools"):
        name = body["tools"][0]["function"]["name"]
        start = {"index": 0, "id": "call_1", "type": "function", "function": {"name": name, "arguments": ""}}
        deltas.append({"tool_calls": [start]})
        for piece in (_TOOL_ARGUMENTS[:9], _TOOL_ARGUMENTS[9:]):
            deltas.append({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
    elif server.mode == "refusal":
        deltas += [{"refusal": "I will"}, {"refusal": " not."}]
    else:
        deltas += [{"content": server.text[i : i + 4]} for i in range(0, len(server.text), 4)]
    chunks = [({"index": 0, "delta": one, "logprobs": None, "finish_reason": None}, None) for one in deltas]
    final = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": _openai_finish(server, body)}
    texts = []
    for choice, usage in [*chunks, (final, None), (None, _openai_usage(server.mode))]:
        chunk = {
            "id": "chatcmpl-123",
            "object": "chat.completion.chunk",
            "created": 1694268190,
            "model": f"{body['model']}-2026-01-01",
            "service_tier": "default",
            "system_fingerprint": "fp_44709d6fcb",
            "choices": [choice] if choice else [],
            "obfuscation": "x7Gh",
        }
        if body.get("stream_options", {}).get("include_usage"):
            chunk["usage"] = usage
        if choice or "usage" in chunk:
            texts.append(f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n")
    return [*texts, "data: [DONE]\n\n"]


def _anthropic_usage(mode: str) -> dict[str, Any]:
    # Input is told without what was cached: 30 in all.
    return {
        "input_tokens": 6,
        "cache_creation_input_tokens": 4,
        "cache_read_input_tokens": 20,
        "cache_creation": {"ephemeral_5m_input_tokens": 4, "ephemeral_1h_input_tokens": 0},
        "output_tokens": 2**40 if mode == "miscounted" else 12,
        "service_tier": "standard",
    }


def _stop_reason(server: ModelServer, body: dict[str, Any]) -> str:
    by_mode = {"truncated": "max_tokens", "refusal": "refusal"}
    return "tool_use" if body.get("tools") else by_mode.get(server.mode, "end_turn")


def _blocks(server: ModelServer, body: dict[str, Any]) -> list[dict[str, Any]]:
    thinking = {"type": "thinking", "thinking": "Hm.", "signature": "EqQBCgIYAhIM"}
    if body.get("tools"):
        tool = {
            "type": "tool_use",
            "id": "call_1",
            "name": body["tools"][0]["name"],
            "input": json.loads(_TOOL_ARGUMENTS),
        }
        return [thinking, tool]
    text = "I will not." if server.mode == "refusal" else server.text
    return [thinking, {"type": "text", "text": text, "citations": None}]


def _message(server: ModelServer, body: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "msg_013Zva2CMHLNnXjNJJKqJ2EF",
        "type": "message",
        "role": "assistant",
        "model": f"{body['model']}-2026-01-01",
        "content": _blocks(server, body),
        "stop_reason": _stop_reason(server, body),
        "stop_sequence": None,
        "usage": _anthropic_usage(server.mode),
    }


def _event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


def _anthropic_events(server: ModelServer, body: dict[str, Any]) -> list[str]:
    begun = {**_message(server, body), "content": [], "stop_reason": None}
    begun["usage"] = {**_anthropic_usage(server.mode), "output_tokens": 1}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": begun}]
    for index, block in enumerate(_blocks(server, body)):
        kind = block["type"]
        if kind == "thinking":
            start = {"type": "thinking", "thinking": "", "signature": ""}
            deltas = [
                {"type": "thinking_delta", "thinking": block["thinking"]},
                {"type": "signature_delta", "signature": block["signature"]},
            ]
        elif kind == "text":
            text = block["text"]
            start = {"type": "text", "text": ""}
            deltas = [{"type": "text_delta", "text": text[i : i + 4]} for i in range(0, len(text), 4)]
        else:
            start = {**block, "input": {}}
            pieces = ("", _TOOL_ARGUMENTS[:9], _TOOL_ARGUMENTS[9:])
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
        events.append({"type": "content_block_start", "index": index, "content_block": start})
        events.append({"type": "ping"})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": index})
    ended = {"stop_reason": _stop_reason(server, body), "stop_sequence": None}
    events.append({"type": "message_delta", "delta": ended, "usage": {"output_tokens": 12}})
    events.append({"type": "something_new", "payload": 1})
    events.append({"type": "message_stop"})
    return [_event(one["type"], one) for one in events]
