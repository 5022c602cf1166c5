"""What goes into the AI nodes and comes out of them."""

from typing import Annotated, Literal, NotRequired

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from core.json import JsonValue


class ChatMessage(TypedDict):
    """One message; further members (`tool_calls`, `tool_call_id`, `name`) go to the provider as they are."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, JsonValue]] | None


class ToolSpec(TypedDict):
    """A function that the model may ask for."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: NotRequired[str]
    parameters: NotRequired[dict[str, JsonValue]]


class PriceSpec(TypedDict):
    """US dollars for a million tokens."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    input: Annotated[float, Field(ge=0)]
    output: Annotated[float, Field(ge=0)]
    cached: NotRequired[Annotated[float, Field(ge=0)]]


class Usage(TypedDict):
    """Tokens of the call; `cached_tokens` are part of `input_tokens`."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int


class RequestedCall(TypedDict):
    """A function that the model asks for."""

    id: str
    name: str
    arguments: JsonValue


class ChatOutput(TypedDict):
    """The answer. `json` is there when a schema was given, `tool_calls` when the model asks for some."""

    text: str
    model: str
    finish_reason: str
    usage: Usage
    json: NotRequired[JsonValue]
    tool_calls: NotRequired[list[RequestedCall]]


class EmbedOutput(TypedDict):
    """One vector for each text, in their order."""

    vectors: list[list[float]]
    model: str
    usage: Usage
