"""The engine of one process: it owns runs, drives them, takes over those of the dead, and stops without losing any.

It lives as an owner with a lease. When another engine has fenced it (it was paused too long, say), everything it
holds is dropped, since the other has it now, and it starts a new life with a new owner id.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import cast
from uuid import UUID

import structlog

from core.clock import Clock
from core.command import Command, Redrive
from core.errors import Conflict, RefluxError, Unavailable
from core.event import Event
from core.ids import OwnerId, RunId
from core.journal import Fenced, RunWrite, StoredRun
from core.run import PLAIN, RunOptions, RunRecord, RunStatus
from engine.actor import ActorEnvironment, RunActor
from engine.actor.actor import Over
from engine.attempt import Attempts
from engine.commit import GroupCommit
from engine.errands import Errands
from engine.history import as_it_is_now, state_of
from engine.kinship import Kinship
from engine.mail import Mail, perform
from engine.ports import Commands, Journal
from engine.program import Program
from engine.run_log import RunLog
from engine.state import RunState, fresh

_log = structlog.get_logger(__name__)

LEASE_SECONDS = 10.0
RENEW_SECONDS = 3.0
ADOPT_SECONDS = 2.0
_ADOPT_BATCH = 200
_ABOUT_TO_GO_SECONDS = 0.01
_MOST_FAULTS = 3
"""How often the engine may stumble over a run before it ends it."""
_GRACE_SECONDS = 1.5
"""How long a graceful stop waits for attempts in flight."""


class Engine:
    """See the module.

    Args:
        programs: makes the program of a stored run; raises NotFound when a node version is missing here.
        on_durable: told after each commit what it wrote.
        exclusive: no other engine can be alive on this database, so the runs of all others are taken over at once.
        commands: carries commands between engines; without it there is only this one.
    """

    def __init__(
        self,
        journal: Journal,
        clock: Clock,
        attempts: Attempts,
        programs: Callable[[StoredRun], Program],
        on_durable: Callable[[Sequence[RunWrite]], None],
        exclusive: bool,
        commands: Commands | None = None,
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._attempts = attempts
        self._programs = programs
        self._on_durable = on_durable
        self._exclusive = exclusive
        self._mail = None if commands is None else Mail(commands, clock, self.actor)
        self._errands = Errands(attempts.parts.remote)
        self._owner: OwnerId | None = None
        self._actors: dict[RunId, RunActor] = {}
        self._drives: dict[RunId, asyncio.Task[None]] = {}
        self._kinship = Kinship(journal, self._actors)
        self._unloaded: set[RunId] = set()
        self._reopening = asyncio.Lock()
        self._hopeless: dict[RunId, str] = {}
        self._faults: Counter[RunId] = Counter()
        self._commit: GroupCommit | None = None
        self._life: asyncio.Task[None] | None = None
        self._alive = asyncio.Event()
        self._draining = False

    @property
    def active(self) -> int:
        """Runs that this engine drives now."""
        return len(self._actors)

    @property
    def waiting_for_events(self) -> int:
        """Steps of runs here that wait for an event."""
        waits = self._attempts.parts.waits
        return 0 if waits is None else len(waits)

    @property
    def ready(self) -> bool:
        """Whether it accepts runs."""
        return self._alive.is_set() and not self._draining

    async def start(self) -> None:
        """Begin to live; returns when runs are accepted. Raises Unavailable without a database."""
        owner = await self._register()
        self._life = asyncio.create_task(self._live(owner))

    async def stop(self) -> None:
        """Stop without losing anything: attempts in flight get a moment to end, the rest is left to the next owner."""
        self._draining = True
        if self._life is None:
            return
        quiet = [asyncio.ensure_future(actor.quiet()) for actor in self._actors.values()]
        if quiet:
            await asyncio.wait(quiet, timeout=_GRACE_SECONDS)
        await self._drop_actors()
        if self._commit is not None:
            self._commit.close()
        await asyncio.wait((self._life,), timeout=1.0)
        self._life.cancel()
        await asyncio.wait((self._life,))

    @property
    def owner(self) -> OwnerId | None:
        """The life that this engine lives at the moment."""
        return self._owner

    def accept(self, record: RunRecord, program: Program, options: RunOptions = PLAIN) -> RunActor:
        """Take on a new run. It is accepted for good once `actor.created` has committed.

        Raises:
            Unavailable: the engine is starting or stopping.
        """
        if not self.ready:
            raise Unavailable("the engine does not accept runs at this moment; try again")
        known = self._actors.get(record.id)
        if known is not None:  # the same request came twice at once, under one Idempotency-Key
            return known
        return self._drive(fresh(record, list(program.steps), program.fallbacks, options), program)

    def actor(self, run_id: RunId) -> RunActor | None:
        """The actor of a run that this engine drives."""
        return self._actors.get(run_id)

    async def launch(self, record: RunRecord, program: Program, options: RunOptions) -> None:
        """Start a run that another one asks for. Raises Unavailable."""
        self.accept(record, program, options)

    async def existing(self, run_ids: Sequence[RunId]) -> frozenset[RunId]:
        """Which of these runs were ever started. Raises Unavailable."""
        return frozenset(await self._journal.ended(run_ids))

    async def under_way(self, run_ids: Sequence[RunId]) -> frozenset[RunId]:
        """Which of these runs were started, and have not ended. Raises Unavailable."""
        return frozenset(run_id for run_id, over in (await self._journal.ended(run_ids)).items() if not over)

    def withdraw(self, task_id: UUID) -> None:
        """A worker shall stop performing an attempt."""
        self._errands.withdraw(task_id)

    def forget(self, task_id: UUID, log: RunLog) -> None:
        """Once the journal has the end of an attempt, nobody needs the worker's result any more."""
        self._errands.forget(task_id, log)

    async def command(self, run_id: RunId, command: Command) -> None:
        """Ask something of a run, wherever it is driven. Returns once what was asked for is durable.

        Raises:
            Conflict: the run's state does not allow it.
            Invalid: the command does not fit the run.
            Forbidden: it asks for another role.
            Unavailable: no engine drives the run at this moment.
        """
        actor = self._actors.get(run_id)
        if isinstance(command, Redrive):
            if await self._redrive(run_id, command):
                return
        elif actor is not None:
            await perform(actor, command)
            return
        elif (await self._journal.ended([run_id])).get(run_id, False):
            raise Conflict("the run has ended already")
        if self._mail is None:
            raise Unavailable("no engine here drives this run at this moment; it is being taken over, try again")
        await self._mail.deliver(run_id, command)

    async def _redrive(self, run_id: RunId, command: Redrive) -> bool:
        """Have a run that is driven here, or has ended, go on. False when another engine drives it."""
        while True:
            actor = self._actors.get(run_id) or await self._reopen(run_id)
            if actor is None:
                return False
            try:
                await perform(actor, command)
            except Over:
                await asyncio.sleep(_ABOUT_TO_GO_SECONDS)
            else:
                return True

    async def _reopen(self, run_id: RunId) -> RunActor | None:
        """Take over a run that has ended. None when another engine drives it."""
        if self._owner is None or not self.ready:
            raise Unavailable("the engine does not accept runs at this moment; try again")
        async with self._reopening:
            known = self._actors.get(run_id)
            return known if known is not None else await self._reopened(self._owner, run_id)

    async def _reopened(self, owner: OwnerId, run_id: RunId) -> RunActor | None:
        if not await self._journal.reopen(owner, run_id):
            return self._actors.get(run_id)
        try:
            stored = await self._journal.load(run_id)
            if stored is None:
                raise Conflict("the run's history is gone")
            prepared = await asyncio.to_thread(self._prepared, stored)
        except BaseException:
            self._unloaded.add(run_id)  # it counts as under way now: whoever can load it sets that right
            raise
        return self._drive(*prepared, reopened=True)

    async def on_event(self, event: Event) -> int:
        """Wake the runs that wait for an event; says how many."""
        waits = self._attempts.parts.waits
        if waits is None:
            return 0
        woken = 0
        for key in await waits.matching(event):
            run_id, step_id, item = cast(tuple[RunId, str, int], key)
            actor = self._actors.get(run_id)
            if actor is not None:
                actor.waits.wake(step_id, item, event.payload)
                woken += 1
        return woken

    async def read_mail(self) -> None:
        """Perform what other processes have asked of runs that are driven here. Raises Unavailable."""
        if self._mail is not None and self._owner is not None:
            await self._mail.read(self._owner)

    # --- a life --------------------------------------------------------------------------------------------------

    async def _register(self) -> OwnerId:
        owner = OwnerId(self._clock.new_id())
        await self._journal.register(owner, LEASE_SECONDS, self._exclusive)
        return owner

    async def _live(self, owner: OwnerId) -> None:
        while True:
            try:
                await self._one_life(owner)
                return
            except* Fenced:
                _log.warning("taken over by another engine; starting again", owner=str(owner))
            except* Exception:  # noqa: BLE001 -- task boundary: the engine outlives its own faults
                _log.exception("the engine stumbled; starting again", owner=str(owner))
                await self._give_up(owner)
            await self._drop_actors()
            owner = await self._register_patiently()

    async def _one_life(self, owner: OwnerId) -> None:
        commit = GroupCommit(self._journal, owner, self._on_durable, self._reject, self._disown)
        self._commit = commit
        self._live_as(owner)
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(one)
                for one in (self._keep_lease(owner), self._keep_adopting(owner), self._kinship.watch())
            ]
            writing = tasks.create_task(commit.run())
            self._alive.set()
            try:
                await asyncio.shield(writing)
            finally:
                self._alive.clear()
                self._live_as(None)
                for task in background:
                    task.cancel()
        await self._journal.release(owner)

    def _live_as(self, owner: OwnerId | None) -> None:
        self._owner = owner
        parts = self._attempts.parts
        if parts.limiter is not None:
            parts.limiter.owner = owner
        if parts.cache is not None:
            parts.cache.owner = owner

    async def _give_up(self, owner: OwnerId) -> None:
        try:
            await self._journal.release(owner)
        except Exception as error:  # noqa: BLE001 -- task boundary: as in `_register_patiently`
            _log.warning("the lease is left to expire", error=type(error).__name__)

    async def _register_patiently(self) -> OwnerId:
        while True:
            try:
                return await self._register()
            except Exception as error:  # noqa: BLE001 -- task boundary: an engine that gave up here would never live again
                _log.warning("the engine cannot register", error=type(error).__name__)
                await asyncio.sleep(1.0)

    async def _keep_lease(self, owner: OwnerId) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                if not await self._journal.renew(owner, LEASE_SECONDS):
                    raise Fenced("the lease is lost")
            except Unavailable as error:
                _log.warning("the lease cannot be renewed", detail=error.detail)

    async def _keep_adopting(self, owner: OwnerId) -> None:
        while True:
            found = 0
            try:
                if not self._draining:
                    adopted = await self._journal.adopt(owner, _ADOPT_BATCH)
                    found = len(adopted)
                    self._unloaded.update(adopted)
                    for run_id in list(self._unloaded):
                        await self._take_up(run_id)
                    # What was asked of a run while nobody had it.
                    await self.read_mail()
            except Unavailable as error:
                _log.warning("runs of lost engines cannot be taken over now", detail=error.detail)
            if found < _ADOPT_BATCH:
                await asyncio.sleep(ADOPT_SECONDS)

    async def _take_up(self, run_id: RunId) -> None:
        try:
            stored = await self._journal.load(run_id)
            # In a thread: compiling a very large workflow takes seconds.
            prepared = None if stored is None else await asyncio.to_thread(self._prepared, stored)
        except Unavailable:
            raise
        except Exception as error:  # noqa: BLE001 -- task boundary: what one run holds must not stop all the others
            # Not failed: with the missing node or object back in place the run can go on.
            detail = error.detail if isinstance(error, RefluxError) else type(error).__name__
            _log.error("a run cannot be taken up", run_id=str(run_id), detail=detail)
            return
        self._unloaded.discard(run_id)
        if prepared is None:
            self._hopeless.pop(run_id, None)  # its first write was refused: there is nothing to end
        elif prepared[0].status.final:
            self._drive(*prepared, reopened=True)  # somebody died while making it go on: it stays as it was
        elif run_id not in self._actors:
            orphan = await self._kinship.is_orphan(prepared[0])
            actor = self._drive(*prepared)
            if run_id in self._hopeless:
                actor.reject(self._hopeless.pop(run_id))
            elif orphan:
                actor.orphaned()

    def _prepared(self, stored: StoredRun) -> tuple[RunState, Program]:
        state = state_of(stored)
        return state, self._programs(as_it_is_now(stored, state))

    def _drive(self, state: RunState, program: Program, reopened: bool = False) -> RunActor:
        assert self._commit is not None
        environment = ActorEnvironment(self._clock, self._attempts, self._commit, lambda: self._draining, self)
        actor = RunActor(environment, program, state, reopened)
        run_id = state.record.id
        self._actors[run_id] = actor
        self._drives[run_id] = asyncio.create_task(self._guard(run_id, actor))
        return actor

    async def _guard(self, run_id: RunId, actor: RunActor) -> None:
        try:
            await actor.drive()
        except Fenced:
            _log.warning("run given up to its new owner", run_id=str(run_id))
        except Exception as error:  # noqa: BLE001 -- task boundary: a fault of the engine stops one run, not all
            _log.exception("run stopped by a fault of the engine; it is taken up again", run_id=str(run_id))
            await self._note_fault(run_id, actor, error)
        else:
            self._faults.pop(run_id, None)
            self._tell_end(actor.state)
            self._kinship.tell_parent(actor.state.options.parent, actor.state)
        finally:
            if self._actors.get(run_id) is actor:
                del self._actors[run_id]
                del self._drives[run_id]
            actor.close()

    async def _note_fault(self, run_id: RunId, actor: RunActor, error: Exception) -> None:
        """Take the run up again once its journal stands still; after some faults, to end it."""
        try:
            await actor.settled()
        except Fenced:
            return
        if not isinstance(error, Unavailable):  # what is away comes back, and is no fault of the run
            self._faults[run_id] += 1
        if self._faults[run_id] >= _MOST_FAULTS:
            del self._faults[run_id]
            self._hopeless[run_id] = f"the engine cannot go on with this run ({type(error).__name__})"
        self._unloaded.add(run_id)

    def _tell_end(self, state: RunState) -> None:
        if state.status is RunStatus.FAILED:
            error = state.error or {}
            _log.info(
                "run failed",
                run_id=str(state.record.id),
                workflow=state.record.workflow,
                step=error.get("step"),
                error_class=error.get("class"),
            )

    async def _drop_actors(self) -> None:
        drives = set(self._drives.values())
        for drive in drives:
            drive.cancel()
        if drives:
            await asyncio.wait(drives)
        self._unloaded.clear()

    def _disown(self, run_id: RunId) -> None:
        """Another engine was told to start the same run, and was faster: it is that one's."""
        actor = self._actors.get(run_id)
        if actor is not None:
            actor.disown()
            self._drives[run_id].cancel()

    def _reject(self, run_id: RunId, reason: str) -> None:
        """What the actor believes is not what the journal holds: read it back from there, and end it."""
        drive = self._drives.get(run_id)
        if drive is not None:
            drive.cancel()
        self._hopeless[run_id] = reason
        self._unloaded.add(run_id)
