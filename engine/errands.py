"""Small things to be done for workers' tasks, without anybody waiting for them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

import structlog

from core.errors import RefluxError
from engine.remote.tasks import RemoteTasks
from engine.run_log import RunLog

_log = structlog.get_logger(__name__)

_PATIENCE = 20
_AGAIN_SECONDS = 0.5
_LINGER_SECONDS = 0.25


class Errands:
    """Withdraws and forgets tasks, many at once, and again while the database is away."""

    def __init__(self, remote: RemoteTasks | None) -> None:
        self._remote = remote
        self._over: list[UUID] = []
        self._under_way: set[asyncio.Task[None]] = set()

    def withdraw(self, task_id: UUID) -> None:
        """A worker shall stop performing an attempt."""
        if self._remote is not None:
            self._run(self._patiently(self._remote.withdraw, [task_id]))

    def forget(self, task_id: UUID, log: RunLog) -> None:
        """Delete a task once its end is in the journal."""
        if self._remote is not None:
            self._run(self._forget(task_id, log))

    async def _forget(self, task_id: UUID, log: RunLog) -> None:
        await asyncio.sleep(0)  # the end is recorded in this turn
        if log.last is not None:
            try:
                await log.last.wait()
            except RefluxError:
                return  # another owner has the run, and the task with it
        self._over.append(task_id)
        await asyncio.sleep(_LINGER_SECONDS)
        over, self._over = self._over, []
        if over and self._remote is not None:
            await self._patiently(self._remote.forget, over)

    async def _patiently(self, act: Callable[[Sequence[UUID]], Awaitable[None]], task_ids: Sequence[UUID]) -> None:
        for _ in range(_PATIENCE):
            try:
                await act(task_ids)
            except RefluxError as error:
                _log.warning("tasks of workers cannot be changed now", detail=error.detail)
                await asyncio.sleep(_AGAIN_SECONDS)
            else:
                return

    def _run(self, errand: Awaitable[None]) -> None:
        task = asyncio.ensure_future(errand)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
