"""Puts right what got stuck between owners, broker and workers. Each owner process has one; many do no harm."""

import asyncio

import structlog

from core.errors import Unavailable
from engine.remote.ports import Publisher, TaskStore

_log = structlog.get_logger(__name__)

SWEEP_SECONDS = 1.0
_CLEAR_EVERY = 30
_BATCH = 1000


class Sweeper:
    """Leases that have expired, messages that were lost, tasks that nobody needs."""

    def __init__(self, store: TaskStore, publisher: Publisher, sweep_seconds: float = SWEEP_SECONDS) -> None:
        self._store = store
        self._publisher = publisher
        self._seconds = sweep_seconds
        self._sweeps = 0

    async def run(self) -> None:
        """Sweep for ever; ends by cancellation."""
        while True:
            try:
                await self.sweep()
            except Unavailable as error:
                _log.warning("tasks cannot be swept now", detail=error.detail)
            except Exception:  # noqa: BLE001 -- task boundary: without the sweeper a lost message is lost for ever
                _log.exception("sweeping tasks failed; going on")
            await asyncio.sleep(self._seconds)

    async def sweep(self) -> None:
        """Once. Raises Unavailable, of the database or the broker."""
        lost = await self._store.lose_expired()
        if lost:
            _log.warning("tasks lost with their workers", tasks=lost)
        await self._store.withdraw_ended(_BATCH)
        messages = await self._store.due(_BATCH)
        if messages:
            try:
                await self._publisher.publish(messages)
            except Unavailable:
                await self._store.unpublished([task_id for _, task_id in messages])
                raise
        if self._sweeps % _CLEAR_EVERY == 0:
            await self._store.clear(_BATCH)
        self._sweeps += 1
