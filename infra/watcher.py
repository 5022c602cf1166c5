"""Keeps what a process has in memory as fresh as the database: looks what has changed, and has it read again."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import structlog

from core.errors import Unavailable

_log = structlog.get_logger(__name__)

POLL_SECONDS = 0.25

Reload = Callable[[], Awaitable[None]]


class TopicNumbers(Protocol):
    """How far each topic has changed; see `infra.postgres.generations`."""

    async def current(self) -> dict[str, int]:
        """The number of each topic. Raises Unavailable."""
        ...


class Watcher:
    """See the module.

    Args:
        reloads: what to call when a topic has changed, in this order.
    """

    def __init__(self, numbers: TopicNumbers, reloads: Mapping[str, Sequence[Reload]]) -> None:
        self._numbers = numbers
        self._reloads = reloads
        self._seen: dict[str, int] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read everything once, then watch. Raises Unavailable."""
        self._seen = await self._numbers.current()
        for reloads in self._reloads.values():
            for reload in reloads:
                await reload()
        self._task = asyncio.create_task(self._watch())

    async def aclose(self) -> None:
        """Stop watching."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def look(self) -> None:
        """Have what has changed read again. Raises Unavailable; what was not read is read the next time."""
        current = await self._numbers.current()
        for topic, reloads in self._reloads.items():
            if current.get(topic, 0) != self._seen.get(topic, 0):
                for reload in reloads:
                    await reload()
                self._seen[topic] = current.get(topic, 0)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                await self.look()
            except Unavailable as error:
                _log.warning("changes cannot be seen now", detail=error.detail)
            except Exception:  # noqa: BLE001 -- task boundary: one bad row must not end all watching
                _log.exception("a change cannot be read; trying again")
