"""The owner's side: hands attempts to workers through the table of tasks, and waits for what becomes of them.

A task's row is committed before its message is published. The row decides: a message that is lost, doubled or late
changes nothing. Whoever asks for the same attempt again, such as the next owner of the run, finds the row and waits
for the task that is under way.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence, Set
from dataclasses import dataclass
from heapq import nsmallest
from uuid import UUID

import structlog

from core.clock import Clock
from core.errors import StepError, Unavailable
from core.trace import TraceStatus
from engine.outcome import Outcome
from engine.remote.batch import Batch
from engine.remote.call import RemoteCall
from engine.remote.ports import Publisher, TaskStore
from engine.remote.result import LOST, RemoteResult, RemoteStatus, result_of

_log = structlog.get_logger(__name__)

POLL_SECONDS = (0.01, 0.04)
"""Between two looks for ended tasks: short while tasks come and go, longer while nothing happens."""

LOOK_SECONDS = 1.0
"""How often the tasks that are waited for are looked at one by one; the poll looks only at those that have ended."""

_LOOK_AT_ONCE = 1_000
"""More take turns: to look at ten thousand would hold the event loop for a tenth of a second."""

_AGAIN_SECONDS = 0.5
_MOST_SEEN = 5_000
"""Ended tasks that nobody has forgotten, above which those are left out that are cleared already."""

OnWait = Callable[[str, str], None]
"""Told (reason, detail): `no_worker`, `queued`, `running`, whenever that changes. Never told when all goes well at
once: only after the task has waited for `LOOK_SECONDS`."""


@dataclass(slots=True)
class _Waiting:
    """A task that somebody here waits for; `askers` counts them."""

    group: str
    future: asyncio.Future[RemoteResult]
    since: float
    looked: float = 0.0
    askers: int = 0
    told: str = ""
    on_wait: OnWait | None = None


class RemoteTasks:
    """See the module. One for each process, with an id of its own."""

    def __init__(self, store: TaskStore, publisher: Publisher, clock: Clock) -> None:
        self._store = store
        self._publisher = publisher
        self._clock = clock
        self._id = clock.new_id()
        self._waiting: dict[UUID, _Waiting] = {}
        self._seen: set[UUID] = set()
        self._entering: Batch[RemoteCall, bool] = Batch(self._enter)
        self._publishing: Batch[tuple[str, UUID], None] = Batch(self._publish, most=100)
        self._pause = POLL_SECONDS[0]
        self._loops: set[asyncio.Task[None]] = set()

    @property
    def outstanding(self) -> int:
        """Tasks that this process waits for."""
        return len(self._waiting)

    async def perform(self, call: RemoteCall, on_wait: OnWait | None = None) -> RemoteResult:
        """Have a worker perform an attempt, and wait for its end.

        To cancel the wait does nothing to the task: the process may just be stopping, and the next owner goes on
        waiting. `withdraw` is what ends a task.
        """
        task_id = call.task_id
        self._seen.discard(task_id)
        waiting = self._waiting.get(task_id)
        if waiting is None:
            future: asyncio.Future[RemoteResult] = asyncio.get_running_loop().create_future()
            waiting = _Waiting(call.group, future, self._clock.monotonic(), on_wait=on_wait)
            self._waiting[task_id] = waiting
        waiting.askers += 1
        try:
            if waiting.askers == 1:
                await self._hand_over(call)
                self._watch()
            return await asyncio.shield(waiting.future)
        finally:
            waiting.askers -= 1
            if waiting.askers == 0 and self._waiting.get(task_id) is waiting:
                del self._waiting[task_id]

    async def withdraw(self, task_ids: Sequence[UUID]) -> None:
        """End tasks that nobody wants any more; a worker that has begun one cancels it within a second or two.

        Raises:
            Unavailable: not done; call it again.
        """
        if task_ids:
            await self._store.withdraw(task_ids)

    async def withdraw_of(self, run_id: UUID, over: Callable[[str, int, int], bool]) -> None:
        """End those tasks of a run whose attempt, given as step, item and number, is over.

        For a run whose owner died: what it had given up may not have been withdrawn any more.

        Raises:
            Unavailable: not done; call it again.
        """
        found = await self._store.open_of(run_id)
        await self.withdraw([task_id for task_id, step_id, item, number in found if over(step_id, item, number)])

    async def forget(self, task_ids: Sequence[UUID]) -> None:
        """Delete tasks whose end is in the journal. Raises Unavailable; what stays is cleared with its run."""
        if task_ids:
            await self._store.forget(task_ids)
            self._seen.difference_update(task_ids)

    async def aclose(self) -> None:
        """Stop waiting; the tasks go on."""
        for loop in self._loops:
            loop.cancel()
        if self._loops:
            await asyncio.wait(self._loops)
        await self._entering.settled()
        await self._publishing.settled()

    # --- out -----------------------------------------------------------------------------------------------------

    async def _hand_over(self, call: RemoteCall) -> None:
        while True:
            try:
                fresh = await self._entering.put(call)
                break
            except Unavailable as error:
                _log.warning("a task cannot be entered now", detail=error.detail)
                await asyncio.sleep(_AGAIN_SECONDS)
        self._pause = POLL_SECONDS[0]
        if fresh:
            self._publishing.put((call.group, call.task_id))

    async def _enter(self, calls: Sequence[RemoteCall]) -> list[bool]:
        rows, bad = [], {}
        for call in calls:
            try:
                rows.append(call.row())
            except StepError as error:
                bad[call.task_id] = error
        fresh: Set[UUID] = await self._store.add(self._id, rows) if rows else set()
        for task_id, fault in bad.items():
            self._resolve(task_id, RemoteResult(RemoteStatus.ENDED, _failed(fault), self._clock.now()))
        return [call.task_id in fresh for call in calls]

    async def _publish(self, messages: Sequence[tuple[str, UUID]]) -> list[None]:
        try:
            await self._publisher.publish(messages)
        except Unavailable as error:
            _log.warning("the broker does not take messages; they are sent again", detail=error.detail)
            await self._note_unpublished([task_id for _, task_id in messages])
        return [None] * len(messages)

    async def _note_unpublished(self, task_ids: Sequence[UUID]) -> None:
        try:
            await self._store.unpublished(task_ids)
        except Unavailable:
            _log.warning("tasks without a message wait for their turn to get one", tasks=len(task_ids))

    # --- back ----------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Begin to look, unless that goes on already."""
        if not self._loops:
            for loop in (self._keep_polling(), self._keep_looking()):
                task = asyncio.create_task(loop)
                self._loops.add(task)
                task.add_done_callback(self._loops.discard)

    async def _keep_polling(self) -> None:
        while True:
            await asyncio.sleep(self._pause)
            self._pause = min(self._pause * 1.4, POLL_SECONDS[1])
            if self._waiting:
                await self._guarded(self._poll)

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self._waiting:
                await self._guarded(self._look)

    async def _guarded(self, act: Callable[[], Awaitable[None]]) -> None:
        try:
            await act()
        except Unavailable as error:
            _log.warning("results of workers cannot be read now", detail=error.detail)
            await asyncio.sleep(_AGAIN_SECONDS)
        except Exception:  # noqa: BLE001 -- task boundary: all runs wait for this loop
            _log.exception("reading the results of workers failed; going on")
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _poll(self) -> None:
        for row in await self._store.finished(self._id, list(self._seen)):
            self._resolve(row["id"], result_of(row))
            self._pause = POLL_SECONDS[0]

    async def _look(self) -> None:
        """What the poll does not see: tasks whose waiter another process became, or that are gone, or not begun."""
        if len(self._seen) > _MOST_SEEN:
            known, _ = await self._store.look(list(self._seen))
            self._seen.intersection_update(known)
        began = self._clock.monotonic()
        old = [(one.looked, task_id) for task_id, one in self._waiting.items() if began - one.since >= LOOK_SECONDS]
        wanted = [task_id for _, task_id in nsmallest(_LOOK_AT_ONCE, old)]
        if not wanted:
            return
        statuses, served = await self._store.look(wanted)
        strays = [one for one in wanted if one not in self._seen and statuses.get(one) in {"done", "lost", "cancelled"}]
        if strays:
            await self._store.claim_waiting(self._id, strays)
        for task_id in wanted:
            waiting = self._waiting.get(task_id)
            if waiting is None or waiting.future.done():
                continue
            waiting.looked = began
            if task_id not in statuses:
                # Another owner has written its end and forgotten it: then nothing that is written here counts.
                self._resolve(task_id, LOST)
            else:
                _tell(waiting, statuses[task_id], waiting.group in served)

    def _resolve(self, task_id: UUID, result: RemoteResult) -> None:
        self._seen.add(task_id)
        waiting = self._waiting.get(task_id)
        if waiting is not None and not waiting.future.done():
            waiting.future.set_result(result)


def _failed(error: StepError) -> Outcome:
    return Outcome(TraceStatus.ERROR, 0.0, error=error)


def _tell(waiting: _Waiting, status: str, served: bool) -> None:
    if status == "claimed":
        reason, detail = "running", ""
    elif served:
        reason, detail = "queued", f"waits for a free worker of the group `{waiting.group}`"
    else:
        group = waiting.group
        reason = "no_worker"
        detail = f"no worker serves the group `{group}`; start one with: reflux worker --nodes {group}"
    # That it runs is news only to who was told that it waits.
    if reason != waiting.told and (waiting.told or reason != "running"):
        waiting.told = reason
        if waiting.on_wait is not None:
            waiting.on_wait(reason, detail)
