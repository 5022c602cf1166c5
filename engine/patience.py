"""Waiting for what is away for a moment: a run must not fail because the database is being restarted."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from core.errors import Unavailable

_log = structlog.get_logger(__name__)

AGAIN_SECONDS = 0.5

Result = TypeVar("Result")


async def patiently(act: Callable[[], Awaitable[Result]], what: str) -> Result:
    """What `act` gives, asked again for as long as it raises Unavailable. `what` is for the log."""
    while True:
        try:
            return await act()
        except Unavailable as error:
            _log.warning("waiting", what=what, detail=error.detail)
            await asyncio.sleep(AGAIN_SECONDS)
