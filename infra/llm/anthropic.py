"""Messages over Anthropic's library.

It builds, signs and sends requests; answers are read here, for the reasons that `infra.llm.openai` gives.
"""

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx2

from core.clock import Clock
from core.llm import ChatRequest, ChatResponse, Endpoint, FinishReason, TokenUsage, ToolCall
from infra.llm.events import finish, server_events
from infra.llm.failure import Failures
from infra.llm.reading import Count, Unreadable, Wire, read, read_json

BASE_URL = "https://api.anthropic.com"
CONNECT_SECONDS = 10.0
DEFAULT_MAX_TOKENS = 8_192
"""The protocol wants a limit; all models in service allow this one."""

_FINISH = {
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "tool_use": FinishReason.TOOL_CALLS,
    "refusal": FinishReason.CONTENT_FILTER,
}
_SYSTEM = ("system", "developer")


class _Usage(Wire):
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None


class _Block(Wire):
    type: str
    text: str | None = None
    id: str | None = None
    name: str | None = None
    input: Any = None


class _Message(Wire):
    type: str
    model: str = ""
    content: tuple[_Block, ...] = ()
    stop_reason: str | None = None
    usage: _Usage | None = None
    error: Any = None


class _Delta(Wire):
    type: str | None = None
    text: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None


class _Event(Wire):
    type: str
    index: int = 0
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: _Usage | None = None
    error: Any = None


class _Answer:
    """An answer that grows."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.finish: str | None = None
        self.counts: dict[str, int] = {}
        self.blocks: dict[int, tuple[_Block, list[str]]] = {}
        self.begun = False

    def add_message(self, message: _Message) -> None:
        self.model = message.model or self.model
        self.finish = message.stop_reason
        self.add_usage(message.usage)
        for index, block in enumerate(message.content):
            self.blocks[index] = (block, [])

    def add_usage(self, usage: _Usage | None) -> None:
        # Later figures are totals, and leave out what has not changed.
        if usage is not None:
            self.counts |= usage.model_dump(exclude_none=True)

    def add_event(self, event: _Event) -> None:
        if event.message is not None:
            self.add_message(event.message)
        if event.content_block is not None:
            self.blocks[event.index] = (event.content_block, [])
        if event.delta is not None:
            self.finish = event.delta.stop_reason or self.finish
            self.begun = self.begun or event.type == "content_block_delta"
            if event.index in self.blocks:
                self.blocks[event.index][1].append(event.delta.text or event.delta.partial_json or "")
        self.add_usage(event.usage)

    def response(self, first_token_s: float | None) -> ChatResponse:
        text: list[str] = []
        calls: list[ToolCall] = []
        for _, (block, parts) in sorted(self.blocks.items()):
            if block.type == "text":
                text += [block.text or "", *parts]
            elif block.type == "tool_use":
                whole = "".join(parts)
                calls.append(
                    ToolCall(block.id or "", block.name or "", read_json(whole) if whole else block.input or {})
                )
        finish = _FINISH.get(self.finish or "", FinishReason.OTHER)
        return ChatResponse("".join(text), self.model, finish, self._usage(), tuple(calls), first_token_s)

    def _usage(self) -> TokenUsage:
        cached = self.counts.get("cache_read_input_tokens", 0)
        written = self.counts.get("cache_creation_input_tokens", 0)
        return TokenUsage(
            input_tokens=self.counts.get("input_tokens", 0) + cached + written,
            output_tokens=self.counts.get("output_tokens", 0),
            cached_tokens=cached,
            cache_write_tokens=written,
        )


class AnthropicModels:
    """See the module.

    Args:
        http: sends the requests; the caller closes it.
    """

    def __init__(self, http: httpx2.AsyncClient, clock: Clock) -> None:
        self._http = http
        self._clock = clock
        # The library loads much of itself at first use: better now, in a thread, than in the event loop.
        _ = _client(Endpoint(None, None, 1.0, ""), http).messages.with_streaming_response

    async def chat(self, request: ChatRequest) -> ChatResponse:
        """The model's answer. Raises StepError."""
        failures = Failures(anthropic, request.endpoint, BASE_URL, self._clock)
        begun = self._clock.monotonic()
        client = _client(request.endpoint, self._http)
        try:
            with failures.named():
                async with client.messages.with_streaming_response.create(
                    **_body(request), **_options(request.endpoint), extra_body=_extra(request)
                ) as response:
                    if "text/event-stream" in response.headers.get("content-type", ""):
                        return await self._stream(request, response.iter_bytes(), failures, begun)
                    message = read(_Message, await response.read())
        except Unreadable as error:
            raise failures.garbled(str(error)) from None
        if message.error:
            raise failures.of_error(message.error)
        if message.type != "message" or message.stop_reason is None:
            raise failures.garbled("there is no answer in it.")
        answer = _Answer(request.model)
        answer.add_message(message)
        return answer.response(None)

    async def _stream(
        self, request: ChatRequest, parts: AsyncIterator[bytes], failures: Failures, begun: float
    ) -> ChatResponse:
        answer = _Answer(request.model)
        first: float | None = None
        async for raw in server_events(parts):
            event = read(_Event, raw.data)
            if event.type == "error":
                raise failures.of_error(event.error)
            if event.type == "message_stop":
                await finish(parts)
                return answer.response(first)
            answer.add_event(event)
            if first is None and answer.begun:
                first = self._clock.monotonic() - begun
        raise failures.cut()


def _client(endpoint: Endpoint, http: httpx2.AsyncClient) -> anthropic.AsyncAnthropic:
    # The library would take keys and addresses that are not given from the process's environment.
    return anthropic.AsyncAnthropic(
        api_key=endpoint.api_key or "none",
        base_url=(endpoint.base_url or BASE_URL).rstrip("/").removesuffix("/v1"),
        max_retries=0,
        http_client=http,
        open_telemetry=False,
    )


def _options(endpoint: Endpoint) -> dict[str, Any]:
    key = endpoint.api_key or anthropic.Omit()
    return {
        "extra_headers": {
            "X-Api-Key": key,
            "Authorization": anthropic.Omit(),
            "Idempotency-Key": endpoint.idempotency_key,
        },
        "timeout": httpx2.Timeout(endpoint.timeout, connect=min(CONNECT_SECONDS, endpoint.timeout)),
    }


def _body(request: ChatRequest) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": request.model,
        "messages": [one for one in request.messages if one["role"] not in _SYSTEM],
        "max_tokens": request.max_tokens or DEFAULT_MAX_TOKENS,
    }
    optional: dict[str, Any] = {
        "system": _system(request),
        "stop_sequences": list(request.stop),
        "stream": request.stream,
        "tools": [
            {"name": one.name, "description": one.description, "input_schema": one.parameters} for one in request.tools
        ],
    }
    body |= {name: value for name, value in optional.items() if value}
    if request.json_schema is not None:
        body["output_config"] = {"format": {"type": "json_schema", "schema": _fitted(request.json_schema)}}
    return body


def _extra(request: ChatRequest) -> dict[str, Any]:
    # No parameters of the library's function any more, since newer models refuse them; older ones still take them.
    sampling = {"temperature": request.temperature, "top_p": request.top_p}
    return {name: value for name, value in sampling.items() if value is not None} | request.extra


def _system(request: ChatRequest) -> list[dict[str, Any]]:
    """System messages as the blocks of the parameter that stands apart from the others."""
    blocks: list[dict[str, Any]] = []
    for message in request.messages:
        if message["role"] in _SYSTEM:
            content = message["content"]
            blocks += [{"type": "text", "text": content}] if isinstance(content, str) else content
    return blocks


def _fitted(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema without what the provider refuses; the library moves that into descriptions."""
    try:
        return anthropic.transform_schema(schema)
    except (AssertionError, TypeError, ValueError, AttributeError):
        return schema
