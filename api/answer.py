"""JSON responses without detours: the hot paths answer with bytes."""

from datetime import datetime
from typing import Any

import orjson
from starlette.responses import Response


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A value as a JSON response."""
    return Response(orjson.dumps(value), status_code=status, media_type="application/json", headers=headers)


def page(items: list[dict[str, Any]], next_cursor: str | None) -> Response:
    """A page of a list."""
    return json_response({"items": items, "next_cursor": next_cursor})


def instant(value: datetime) -> str:
    """A time in UTC as the API writes it (RFC 3339)."""
    return value.isoformat().replace("+00:00", "Z")
