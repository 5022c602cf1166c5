"""What becomes true in a moment."""

import time
from collections.abc import Callable
from typing import Any

import httpx


def until(what: Callable[[], Any], seconds: float = 10) -> Any:
    """What it gives, once that is something. Raises AssertionError when it never is."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it never became so"
        time.sleep(0.02)
    return found


def traces(api: httpx.Client, count: int, seconds: float = 15, **query: Any) -> list[dict[str, Any]]:
    """All attempts that fit, once there are so many; oldest first."""

    def read() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        cursor = None
        while True:
            given = {**query, "limit": 100, **({} if cursor is None else {"cursor": cursor})}
            page = api.get("/traces", params=given).json()
            found += page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return found

    found = until(lambda: (rows := read()) and len(rows) >= count and rows, seconds)
    assert len(found) == count
    return sorted(found, key=lambda one: (one["start"], one["attempt"]))
