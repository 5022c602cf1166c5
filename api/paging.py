"""The parameters that lists take."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import Query
from pydantic import AfterValidator, BeforeValidator

Limit = Annotated[int, Query(ge=1, le=100, description="How many items at most.")]
Cursor = Annotated[str | None, Query(max_length=500, description="`next_cursor` of the page before.")]

_EARLIEST = datetime(1900, 1, 1, tzinfo=UTC)
_LATEST = datetime(2262, 1, 1, tzinfo=UTC)
_DAY = timedelta(days=1)


def _as_typed(value: Any) -> Any:
    """In a query `+` means a space: `2026-01-01T00:00:00+02:00` is meant as it was typed. Bare numbers are no times."""
    if isinstance(value, str) and "-" not in value[1:]:
        raise ValueError("must be a time such as 2026-01-01T00:00:00Z")
    return value.replace(" ", "+") if isinstance(value, str) and " " in value[11:] else value


def _in_range(value: datetime) -> datetime:
    """In UTC, and within what every store can compare; beyond that nothing has happened."""
    if value.tzinfo is None:
        value = value.replace(tzinfo=UTC)
    if value.replace(tzinfo=UTC) < _EARLIEST + _DAY:
        return _EARLIEST
    return min(value.astimezone(UTC), _LATEST) if value.replace(tzinfo=UTC) < _LATEST else _LATEST


Instant = Annotated[datetime, BeforeValidator(_as_typed), AfterValidator(_in_range)]
"""A time of a filter (RFC 3339); without a zone it is UTC."""
