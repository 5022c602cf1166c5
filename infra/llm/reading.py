"""Reads JSON of providers into types, and says what does not fit."""

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.json import JsonError, JsonValue, decode


class Wire(BaseModel):
    """Something that a provider sends. New members may come at any time, so unknown ones are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


Count = Annotated[int, Field(ge=0, le=2**31)]
"""Tokens; more than that no call has."""

W = TypeVar("W", bound=Wire)


class Unreadable(ValueError):
    """The text is not what the protocol says. The message is fit for a person and quotes nothing."""


def read(kind: type[W], raw: bytes | str) -> W:
    """Decode and check. Raises Unreadable."""
    value = read_json(raw)
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the value"
        raise Unreadable(f"{where[:100]}: {first['msg']}.") from None


def read_json(raw: bytes | str) -> JsonValue:
    """Decode JSON within bounds. Raises Unreadable."""
    try:
        return decode(raw)
    except JsonError:
        raise Unreadable("the answer is not JSON.") from None
