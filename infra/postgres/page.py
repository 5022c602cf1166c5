"""Lists in pages: newest first, with the last id as the cursor."""

import uuid
from dataclasses import dataclass
from typing import Generic, TypeVar

from core.errors import Fault, Invalid

T = TypeVar("T")
MAX_LIMIT = 100


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some of the items, and the cursor that asks for those after them; None when there are no more."""

    items: tuple[T, ...]
    next_cursor: str | None


def parse_cursor(cursor: str | None) -> uuid.UUID | None:
    """The id in a cursor. Raises Invalid when the text is not one that a list gave out."""
    if cursor is None:
        return None
    try:
        return uuid.UUID(cursor)
    except ValueError:
        fault = Fault("$.cursor", "cursor", "must be a `next_cursor` that this list gave")
        raise Invalid("the cursor is not valid", [fault]) from None


def check_limit(limit: int) -> int:
    """The limit itself. Raises Invalid when it is not between 1 and 100."""
    if not 1 <= limit <= MAX_LIMIT:
        raise Invalid("the limit is not valid", [Fault("$.limit", "range", f"must be between 1 and {MAX_LIMIT}")])
    return limit


def contains_pattern(words: str) -> str:
    """A LIKE pattern (escape character backslash) for texts that contain `words` literally."""
    escaped = words.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"
