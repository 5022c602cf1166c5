"""The worker's side: claims tasks, performs them, and leaves their outcome where the owner finds it.

Everything hangs on the claim. It is a lease that the worker renews; when the lease has expired, or the task was
withdrawn, the worker stops the attempt, and what it writes afterwards changes nothing.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import structlog

from core.clock import Clock
from core.errors import ErrorClass, RefluxError, StepError, Unavailable
from core.manifest import Effect
from core.trace import TraceStatus
from engine.node.context import ExpressionEvaluator, StepContext
from engine.node.version import NodeVersion
from engine.outcome import Outcome
from engine.performer import Performer
from engine.remote.batch import Batch
from engine.remote.call import RemoteCall
from engine.remote.ports import Row, WorkerStore
from engine.remote.result import outcome_row
from engine.remote.slots import Slots

_log = structlog.get_logger(__name__)

_AGAIN_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. `tick`: between looks whether tasks were withdrawn; `grace`: for attempts in flight at the end.

    With the sweep and the next worker's start, a step goes on within 15 s after its worker's death.
    """

    lease: float = 10.0
    renew: float = 3.0
    tick: float = 1.0
    grace: float = 3.0


@dataclass(frozen=True, slots=True)
class Identity:
    """One life of a worker process."""

    id: UUID
    groups: tuple[str, ...]
    hostname: str
    pid: int
    concurrency: int


@dataclass(slots=True)
class _Held:
    """A claimed task. `leased` is when its lease was last asked for, on the monotonic clock."""

    effect: Effect
    leased: float
    attempt: asyncio.Task[None]


class TaskWorker:
    """See the module.

    Args:
        resolve: finds a node version by `name@version`; raises NotFound.
    """

    def __init__(
        self,
        store: WorkerStore,
        performer: Performer,
        resolve: Callable[[str], NodeVersion],
        evaluator: ExpressionEvaluator,
        clock: Clock,
        identity: Identity,
        timing: Timing,
    ) -> None:
        self._store = store
        self._performer = performer
        self._resolve = resolve
        self._evaluator = evaluator
        self._clock = clock
        self._me = identity
        self._timing = timing
        self._slots = Slots(identity.concurrency)
        self._held: dict[UUID, _Held] = {}
        self._taking: set[UUID] = set()
        self._refused: set[UUID] = set()
        self._fetching: set[asyncio.Task[None]] = set()
        self._claiming: Batch[UUID, Row | None] = Batch(self._claim)
        self._finishing: Batch[tuple[UUID, bytes, bytes | None], None] = Batch(self._finish, most=100)
        self._closed = 0.0
        self._beating: asyncio.Task[None] | None = None

    @property
    def running(self) -> int:
        """Attempts that go on now."""
        return len(self._held)

    async def start(self) -> None:
        """Enter the worker. Raises Unavailable."""
        await self._beat(renew=False)
        self._beating = asyncio.create_task(self._keep_beating())

    async def take(self, task_id: UUID) -> None:
        """A message says that there is a task: begin it when there is a place, unless somebody has it.

        Returns when it has begun, or will not. So whoever waits for this takes no more messages than there are places.
        """
        if task_id in self._held or task_id in self._taking:
            return
        self._taking.add(task_id)
        try:
            if not await self._slots.take():
                self._refused.add(task_id)
                return
            if not await self._begin(task_id):
                self._slots.give()
        finally:
            self._taking.discard(task_id)

    def close(self) -> None:
        """Begin nothing more; what goes on has the time of grace from now on."""
        if self._slots.open:
            self._closed = self._clock.monotonic()
            self._slots.close()

    async def stop(self) -> None:
        """Let attempts end for a moment, leave the rest to others, and sign off."""
        self.close()
        attempts = [held.attempt for held in self._held.values()]
        if attempts:
            await asyncio.wait(attempts, timeout=max(0.0, self._closed + self._timing.grace - self._clock.monotonic()))
        left = dict(self._held)
        for held in left.values():
            held.attempt.cancel()
        if left:
            await asyncio.wait([held.attempt for held in left.values()], timeout=1.0)
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.wait((self._beating,))
        await self._finishing.settled()
        try:
            lost = [task_id for task_id, held in left.items() if held.effect is Effect.UNSAFE]
            again = [task_id for task_id in left if task_id not in lost]
            await self._store.give_back(self._me.id, again, lost, list(self._refused))
            await self._store.leave(self._me.id)
        except Unavailable as error:
            _log.warning("the leases are left to expire", detail=error.detail, tasks=len(left))

    # --- an attempt ----------------------------------------------------------------------------------------------

    async def _begin(self, task_id: UUID) -> bool:
        asked = self._clock.monotonic()
        try:
            row = await self._claim_patiently(task_id)
        except Exception:  # noqa: BLE001 -- task boundary: the sweeper finds what was claimed and not begun
            _log.exception("a task cannot be claimed", task=str(task_id))
            return False
        if row is None:
            return False
        attempt = asyncio.create_task(self._attempt(task_id, row))
        self._held[task_id] = _Held(Effect(row["effect"]), asked, attempt)
        attempt.add_done_callback(lambda _: self._ended(task_id))
        return True

    async def _claim_patiently(self, task_id: UUID) -> Row | None:
        until = self._clock.monotonic() + self._timing.lease / 3
        while True:
            try:
                return await self._claiming.put(task_id)
            except Unavailable:
                if self._clock.monotonic() > until:
                    raise
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _claim(self, task_ids: Sequence[UUID]) -> list[Row | None]:
        rows = await self._store.claim(self._me.id, task_ids, self._timing.lease)
        found = {row["id"]: row for row in rows}
        return [found.get(task_id) for task_id in task_ids]

    def _ended(self, task_id: UUID) -> None:
        del self._held[task_id]
        self._slots.give()

    async def _attempt(self, task_id: UUID, row: Row) -> None:
        try:
            started = self._clock.now()
            outcome = await self._outcome(row)
            await self._leave(task_id, outcome, started)
        except Exception:  # noqa: BLE001 -- task boundary: the lease expires, and the owner decides
            _log.exception("an attempt is given up", task=str(task_id))

    async def _outcome(self, row: Row) -> Outcome:
        try:
            call = RemoteCall.from_row(row)
            node = self._resolve(f"{call.node}@{call.node_version}")
        except RefluxError as error:
            sentence = f"the worker cannot run this node: {error.detail}; give it the same REFLUX_NODES as the server"
            return Outcome(TraceStatus.ERROR, 0.0, error=StepError(ErrorClass.INTERNAL, sentence))
        context = StepContext(
            run_id=call.run_id,
            step_id=call.step_id,
            item=call.item,
            attempt=call.attempt,
            idempotency_key=call.idempotency_key,
            timeout=call.timeout,
            clock=self._clock,
            evaluator=self._evaluator,
            effect=call.effect,
            workflow=call.workflow,
            session=call.session,
        )
        return await self._performer.perform(node, call.params, context, call.workspace, call.secret_names)

    async def _leave(self, task_id: UUID, outcome: Outcome, started: datetime) -> None:
        """Write the outcome down, however long that takes: the lease is renewed meanwhile; its loss ends this."""
        facts, output = outcome_row(outcome, started)
        while True:
            try:
                await self._finishing.put((task_id, facts, output))
                return
            except Unavailable as error:
                _log.warning("an outcome cannot be stored now", task=str(task_id), detail=error.detail)
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _finish(self, ends: Sequence[tuple[UUID, bytes, bytes | None]]) -> list[None]:
        await self._store.finish(self._me.id, ends)
        return [None] * len(ends)

    # --- leases --------------------------------------------------------------------------------------------------

    async def _keep_beating(self) -> None:
        renewed = self._clock.monotonic()
        while True:
            await asyncio.sleep(self._timing.tick)
            began = self._clock.monotonic()
            renew = began - renewed >= self._timing.renew
            try:
                await self._beat(renew)
                renewed = began if renew else renewed
                await self._fetch_neglected()
            except Exception as error:  # noqa: BLE001 -- task boundary: without its heart the worker loses all it does
                _log.warning("the leases cannot be renewed", error=str(error)[:200])
                self._drop_expired(began)

    async def _beat(self, renew: bool) -> None:
        began = self._clock.monotonic()
        held = list(self._held)
        about = {
            "groups": list(self._me.groups),
            "hostname": self._me.hostname,
            "pid": self._me.pid,
            "concurrency": self._me.concurrency,
            "running": self._slots.used,
        }
        still = await self._store.beat(self._me.id, about, held, self._timing.lease, renew)
        for task_id in held:
            one = self._held.get(task_id)
            if one is None:
                continue
            if task_id not in still:
                one.attempt.cancel()
            elif renew:
                one.leased = began

    async def _fetch_neglected(self) -> None:
        """The broker may be away, or Celery may have stopped to listen: what comes by neither is fetched."""
        free = self._me.concurrency - self._slots.used - len(self._fetching)
        if free <= 0 or not self._slots.open:
            return
        for task_id in await self._store.neglected(self._me.groups, free):
            taking = asyncio.create_task(self.take(task_id))
            self._fetching.add(taking)
            taking.add_done_callback(self._fetching.discard)

    def _drop_expired(self, now: float) -> None:
        for held in self._held.values():
            if now - held.leased > self._timing.lease:
                held.attempt.cancel()
