"""The vocabulary of language models: what is asked, what is answered, what it used up.

It is the same for all providers. Whatever goes wrong is a `StepError`: AUTH, RATE_LIMITED (with `retry_after` where the
provider said it), UPSTREAM_4XX, UPSTREAM_5XX, NETWORK, TIMEOUT, DECODE, POLICY or INVALID_INPUT.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from core.json import JsonValue


class Provider(StrEnum):
    """Whose protocol is spoken; many other servers speak the first."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"


class FinishReason(StrEnum):
    """Why a model stopped."""

    STOP = "stop"
    LENGTH = "length"
    """The limit of tokens cut the answer."""
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"
    """The model, or a filter behind it, refuses."""
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a model is, and how long to wait for it.

    Attributes:
        base_url: None for the provider's own address.
        api_key: None for servers that want none. Kept out of `repr`.
        timeout: seconds without any byte before the call counts as lost.
        idempotency_key: sent along, so that a server may recognize a repeated call.
    """

    base_url: str | None
    api_key: str | None = field(repr=False)
    timeout: float
    idempotency_key: str


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may ask for. `parameters` is a JSON Schema."""

    name: str
    description: str
    parameters: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that the model asks for."""

    id: str
    name: str
    arguments: JsonValue


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One question to a chat model. What is None is left to the provider.

    Attributes:
        messages: `{role, content}` in their order; the roles system and developer may stand among them.
        json_schema: the answer shall be JSON that satisfies it. Providers take a part of JSON Schema only, so the
            answer must still be checked.
        stream: have the answer sent piece by piece; needed to know the time to the first token.
        extra: further members of the request body, as the provider names them.
    """

    provider: Provider
    endpoint: Endpoint
    model: str
    messages: tuple[dict[str, Any], ...]
    temperature: float | None = None
    max_tokens: int | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    json_schema: dict[str, Any] | None = None
    tools: tuple[Tool, ...] = ()
    stream: bool = False
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens of one call.

    Attributes:
        input_tokens: all that the model read, cached or not.
        cached_tokens: the part of them that came from the provider's cache.
        cache_write_tokens: the part of them that was written to it.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ChatResponse:
    """A model's answer.

    Attributes:
        model: the model that answered, as the provider names it.
        first_token_s: seconds until the first piece of the answer, when it was streamed.
    """

    text: str
    model: str
    finish_reason: FinishReason
    usage: TokenUsage
    tool_calls: tuple[ToolCall, ...] = ()
    first_token_s: float | None = None


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """Texts that become vectors."""

    endpoint: Endpoint
    model: str
    texts: tuple[str, ...]
    dimensions: int | None = None


@dataclass(frozen=True, slots=True)
class EmbedResponse:
    """One vector for each text, in their order."""

    vectors: list[list[float]]
    model: str
    usage: TokenUsage
