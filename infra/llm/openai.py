"""Chat Completions and Embeddings over OpenAI's library; many other servers speak the same protocol.

The library builds, signs and sends requests. Answers are read here, from bytes, because the library takes any JSON for
an answer, and the end of a cut stream for the end of an answer.
"""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import openai

from core.clock import Clock
from core.json import JsonValue
from core.llm import (
    ChatRequest,
    ChatResponse,
    EmbedRequest,
    EmbedResponse,
    Endpoint,
    FinishReason,
    TokenUsage,
    ToolCall,
)
from infra.llm.events import finish, server_events
from infra.llm.failure import Failures
from infra.llm.reading import Count, Unreadable, Wire, read, read_json
from infra.llm.schema import strict_schema

BASE_URL = "https://api.openai.com/v1"
CONNECT_SECONDS = 10.0

_FINISH = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    "content_filter": FinishReason.CONTENT_FILTER,
}


class _Details(Wire):
    cached_tokens: Count | None = None
    cache_write_tokens: Count | None = None


class _Usage(Wire):
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    prompt_tokens_details: _Details | None = None


class _Function(Wire):
    name: str | None = None
    arguments: str | None = None


class _Call(Wire):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Message(Wire):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(Wire):
    index: int = 0
    message: _Message | None = None
    delta: _Message | None = None
    finish_reason: str | None = None


class _Completion(Wire):
    """A whole answer, or a chunk of one."""

    model: str = ""
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


class _Vector(Wire):
    index: int
    embedding: list[float]


class _Embeddings(Wire):
    model: str = ""
    data: list[_Vector] | None = None
    usage: _Usage | None = None
    error: Any = None


class _Answer:
    """An answer that grows."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.usage = TokenUsage()
        self.finish: str | None = None
        self.text: list[str] = []
        self.refusal: list[str] = []
        self.calls: dict[int, list[str]] = {}
        self.begun = False

    def add(self, part: _Completion) -> None:
        self.model = part.model or self.model
        if part.usage is not None:
            self.usage = _usage(part.usage)
        for choice in part.choices or ():
            if choice.index == 0:
                self.finish = choice.finish_reason or self.finish
                self._add(choice.message or choice.delta or _Message())

    def _add(self, message: _Message) -> None:
        self.begun = self.begun or bool(message.content or message.refusal or message.tool_calls)
        self.text.append(message.content or "")
        self.refusal.append(message.refusal or "")
        for position, call in enumerate(message.tool_calls or ()):
            whole = self.calls.setdefault(position if call.index is None else call.index, ["", "", ""])
            function = call.function or _Function()
            whole[0] = call.id or whole[0]
            whole[1] += function.name or ""
            whole[2] += function.arguments or ""

    def response(self, first_token_s: float | None) -> ChatResponse:
        refusal = "".join(self.refusal)
        finish = FinishReason.CONTENT_FILTER if refusal else _FINISH.get(self.finish or "", FinishReason.OTHER)
        calls = tuple(
            ToolCall(id, name, read_json(arguments) if arguments else {})
            for _, (id, name, arguments) in sorted(self.calls.items())
        )
        return ChatResponse("".join(self.text) or refusal, self.model, finish, self.usage, calls, first_token_s)


class OpenAIModels:
    """See the module.

    Args:
        http: sends the requests; the caller closes it.
    """

    def __init__(self, http: httpx2.AsyncClient, clock: Clock) -> None:
        self._http = http
        self._clock = clock
        # The library loads much of itself at first use: better now, in a thread, than in the event loop.
        _ = _client(Endpoint(None, None, 1.0, ""), http).chat.completions.with_streaming_response

    async def chat(self, request: ChatRequest) -> ChatResponse:
        """The model's answer. Raises StepError."""
        failures = Failures(openai, request.endpoint, BASE_URL, self._clock)
        begun = self._clock.monotonic()
        client = _client(request.endpoint, self._http)
        try:
            with failures.named():
                async with client.chat.completions.with_streaming_response.create(
                    **_body(request), **_options(request.endpoint), extra_body=request.extra
                ) as response:
                    if "text/event-stream" in response.headers.get("content-type", ""):
                        return await self._stream(request, response.iter_bytes(), failures, begun)
                    completion = read(_Completion, await response.read())
        except Unreadable as error:
            raise failures.garbled(str(error)) from None
        if completion.error:
            raise failures.of_error(completion.error)
        if not completion.choices:
            raise failures.garbled("there is no answer in it.")
        answer = _Answer(request.model)
        answer.add(completion)
        return self._response(answer, None, failures)

    async def embed(self, request: EmbedRequest) -> EmbedResponse:
        """Vectors of texts. Raises StepError."""
        failures = Failures(openai, request.endpoint, BASE_URL, self._clock)
        body: dict[str, Any] = {"model": request.model, "input": list(request.texts), "encoding_format": "float"}
        if request.dimensions is not None:
            body["dimensions"] = request.dimensions
        client = _client(request.endpoint, self._http)
        try:
            with failures.named():
                async with client.embeddings.with_streaming_response.create(
                    **body, **_options(request.endpoint)
                ) as response:
                    found = read(_Embeddings, await response.read())
        except Unreadable as error:
            raise failures.garbled(str(error)) from None
        if found.error:
            raise failures.of_error(found.error)
        vectors = {one.index: one.embedding for one in found.data or ()}
        if sorted(vectors) != list(range(len(request.texts))):
            raise failures.garbled(f"{len(request.texts)} texts gave {len(vectors)} vectors.")
        usage = _usage(found.usage or _Usage())
        return EmbedResponse([vectors[i] for i in range(len(request.texts))], found.model or request.model, usage)

    async def _stream(
        self, request: ChatRequest, parts: AsyncIterator[bytes], failures: Failures, begun: float
    ) -> ChatResponse:
        answer = _Answer(request.model)
        first: float | None = None
        done = False
        async for event in server_events(parts):
            if event.data.startswith("[DONE]"):
                done = True
                await finish(parts)
                break
            chunk = read(_Completion, event.data)
            if chunk.error:
                raise failures.of_error(chunk.error)
            answer.add(chunk)
            if first is None and answer.begun:
                first = self._clock.monotonic() - begun
        if not (done or answer.finish):
            raise failures.cut()
        return self._response(answer, first, failures)

    def _response(self, answer: _Answer, first_token_s: float | None, failures: Failures) -> ChatResponse:
        try:
            return answer.response(first_token_s)
        except Unreadable:
            raise failures.garbled("the arguments of a tool call are not JSON.") from None


def _client(endpoint: Endpoint, http: httpx2.AsyncClient) -> openai.AsyncOpenAI:
    # The library would take keys and addresses that are not given from the process's environment.
    return openai.AsyncOpenAI(
        api_key=endpoint.api_key or "none", base_url=endpoint.base_url or BASE_URL, max_retries=0, http_client=http
    )


def _options(endpoint: Endpoint) -> dict[str, Any]:
    authorization = f"Bearer {endpoint.api_key}" if endpoint.api_key else openai.Omit()
    return {
        "extra_headers": {
            "Authorization": authorization,
            "X-Api-Key": openai.Omit(),
            "Idempotency-Key": endpoint.idempotency_key,
        },
        "timeout": httpx2.Timeout(endpoint.timeout, connect=min(CONNECT_SECONDS, endpoint.timeout)),
    }


def _body(request: ChatRequest) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": request.model,
        "messages": list(request.messages),
        "temperature": request.temperature,
        "top_p": request.top_p,
        "max_completion_tokens": request.max_tokens,
        "stop": list(request.stop) or None,
    }
    body = {name: value for name, value in body.items() if value is not None}
    if request.stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    if request.json_schema is not None:
        body["response_format"] = _response_format(request.json_schema)
    if request.tools:
        body["tools"] = [
            {
                "type": "function",
                "function": {"name": one.name, "description": one.description, "parameters": one.parameters},
            }
            for one in request.tools
        ]
    return body


def _response_format(schema: dict[str, Any]) -> JsonValue:
    strict = strict_schema(schema)
    return {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": strict or schema, "strict": strict is not None},
    }


def _usage(usage: _Usage) -> TokenUsage:
    details = usage.prompt_tokens_details or _Details()
    return TokenUsage(
        input_tokens=usage.prompt_tokens or 0,
        output_tokens=usage.completion_tokens or 0,
        cached_tokens=details.cached_tokens or 0,
        cache_write_tokens=details.cache_write_tokens or 0,
    )
