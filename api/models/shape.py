"""What all published shapes have in common."""

from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Item = TypeVar("Item")


class Shape(BaseModel):
    """A JSON object with the fields that are named here and no others."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Page(Shape, Generic[Item]):
    """A page of a list."""

    items: list[Item]
    next_cursor: str | None = Field(description="The `cursor` of the next page; null at the end.")


def left_out() -> Any:
    """As a `default_factory`: the field may be absent. Unlike a default of None it does not make the field nullable."""
    return None
