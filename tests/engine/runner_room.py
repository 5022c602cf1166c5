"""An engine in this process on a real journal, and the nodes that its workflows use."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
from pydantic import BaseModel

from api.programs import Programs
from api.stores import Stores, open_stores
from core.clock import Clock
from core.command import Cancel, Resolve
from core.errors import ErrorClass, StepError
from core.ids import DEFAULT_WORKSPACE, RunId
from core.journal import RunWrite, StoredRun
from core.json import JsonValue
from core.run import PLAIN, RunEvent, RunRecord
from core.spec import WorkflowSpec
from engine.actor import RunActor
from engine.attempt import Attempts
from engine.cache.step_cache import StepCache
from engine.events.feed import EventFeed
from engine.events.wait_index import WaitIndex
from engine.expression.evaluator import Evaluator
from engine.history import state_of
from engine.limits.book import NodeLimits
from engine.limits.limiter import Limiter
from engine.node.process import NodeProcesses
from engine.node.registry import NodeRegistry
from engine.node.sdk import NodeVersion, StepContext, node
from engine.nodes.builtin import builtin_nodes
from engine.nodes.egress import EgressPolicy
from engine.parts import ALONE, Parts
from engine.performer import Performer
from engine.program import Program, compile_program
from engine.routing.router import Router
from engine.runner import Engine
from engine.state import RunState
from infra.clock import SystemClock
from infra.objects import Objects
from infra.postgres.connection import create_engine
from infra.postgres.journal import PostgresJournal
from infra.postgres.partitions import ensure_partitions
from infra.postgres.secrets import SecretKey, Secrets
from infra.postgres.workflows import Workflows
from infra.watcher import Watcher
from tests.chaos.user_nodes import fails_until, kill_child, sleep, spin, stubborn

KEY = SecretKey(bytes(32))


@dataclass
class Log:
    """What the test nodes did. `open` is how many are at work, `most` how many ever were at once.

    `keys` are the idempotency keys without the run, `served` the versions of `test.arm` that were called, and those
    that are in `broken` fail.
    """

    calls: list[tuple[str, int, int]] = field(default_factory=list)
    open: int = 0
    most: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    keys: list[tuple[str, str]] = field(default_factory=list)
    served: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)

    def of(self, step_id: str) -> list[int]:
        return [item for step, item, _ in self.calls if step == step_id]

    def nodes(self) -> list[NodeVersion]:
        def note(context: StepContext) -> None:
            self.calls.append((context.step_id, context.item, context.attempt))
            self.keys.append((context.step_id, context.idempotency_key.partition(":")[2]))

        @node("test.work", version="1.0.0", effect="idempotent")
        async def work(context: StepContext, value: JsonValue = None, seconds: float = 0.0) -> JsonValue:
            note(context)
            self.open += 1
            self.most = max(self.most, self.open)
            try:
                await asyncio.sleep(seconds)
            finally:
                self.open -= 1
            return value

        @node("test.fail", version="1.0.0", effect="idempotent")
        async def fail(context: StepContext, times: int = 1_000_000, kind: str = "network") -> JsonValue:
            note(context)
            if context.attempt <= times:
                raise StepError(ErrorClass(kind), f"attempt {context.attempt} failed")
            return context.attempt

        @node("test.gate", version="1.0.0", effect="idempotent")
        async def gate(context: StepContext) -> JsonValue:
            note(context)
            await self.gate.wait()
            return "through"

        @node("test.unsafe_gate", version="1.0.0", effect="unsafe")
        async def unsafe_gate(context: StepContext) -> JsonValue:
            note(context)
            await self.gate.wait()
            return "through"

        @node("test.doubtful", version="1.0.0", effect="unsafe")
        async def doubtful(context: StepContext) -> JsonValue:
            note(context)
            raise StepError(ErrorClass.NETWORK, "the answer never came", outcome_unknown=True)

        @node("test.unspeakable", version="1.0.0", effect="idempotent")
        async def unspeakable(context: StepContext) -> JsonValue:
            note(context)
            raise StepError(ErrorClass.UPSTREAM_4XX, "half a character", detail={"half": "\ud800"})

        @node("test.spend", version="1.0.0", effect="idempotent")
        async def spend(context: StepContext, usd: float, fails: bool = False) -> JsonValue:
            note(context)
            context.cost(usd)
            if fails:
                raise StepError(ErrorClass.UPSTREAM_4XX, "paid for nothing")
            return usd

        arms = [self._arm(version, note) for version in ("1.0.0", "2.0.0")]
        return [work, fail, gate, unsafe_gate, doubtful, unspeakable, spend, *arms]

    def _arm(self, number: str, note: Callable[[StepContext], None]) -> NodeVersion:
        @node("test.arm", version=number, effect="idempotent")
        async def arm(context: StepContext, seconds: float = 0.0) -> JsonValue:
            note(context)
            self.served.append(number)
            await asyncio.sleep(seconds)
            if number in self.broken:
                raise StepError(ErrorClass.UPSTREAM_5XX, f"{number} is broken")
            return number

        return arm


@dataclass
class Room:
    """One engine with all that it needs."""

    dsn: str
    clock: Clock
    journal: PostgresJournal
    workflows: Workflows
    registry: NodeRegistry
    engine: Engine
    log: Log
    commits: list[Sequence[RunWrite]]
    programs: "Callable[[StoredRun], Program]"
    parts: Parts
    stores: Stores
    library: Programs

    async def ask(self, run_id: RunId, kind: type[BaseModel], **more: Any) -> None:
        """Give a command, under a new id if none is given."""
        command: Any = kind(**{"id": self.clock.new_id(), **more})
        await asyncio.wait_for(self.engine.command(run_id, command), 10)

    async def save(self, name: str, spec: dict[str, Any]) -> int:
        """Store a workflow that others start; gives its version."""
        saved = await self.workflows.save(
            DEFAULT_WORKSPACE, WorkflowSpec.model_validate({"name": name, **spec}), "test"
        )
        self.library.changed_here()
        return saved.version

    def state(self, run_id: uuid.UUID) -> RunState:
        """Of a run that is driven here."""
        actor = self.engine.actor(RunId(run_id))
        assert actor is not None
        return actor.state

    async def taken_up(self, run_id: uuid.UUID) -> RunActor:
        """The actor of a run of another engine, once this one has it."""
        await self.until(lambda: self.engine.actor(RunId(run_id)) is not None, 8)
        actor = self.engine.actor(RunId(run_id))
        assert actor is not None
        return actor

    async def stored(self, run_id: uuid.UUID) -> RunState:
        """A run as the journal has it."""
        stored = await self.journal.load(RunId(run_id))
        assert stored is not None
        return state_of(stored)

    async def rows(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        """What the database says."""
        connection = await asyncpg.connect(self.dsn)
        try:
            return list(await connection.fetch(query, *arguments))
        finally:
            await connection.close()

    async def tidy(self, seconds: float = 8.0) -> None:
        """Wait until no limit's slot and no flight of the cache is left."""
        async with asyncio.timeout(seconds):
            while await self.rows("SELECT run_id FROM slots UNION ALL SELECT run_id FROM step_flights"):
                await asyncio.sleep(0.05)

    async def cancel(self, run_id: RunId, reason: str) -> None:
        await self.engine.command(run_id, Cancel(id=self.clock.new_id(), reason=reason))

    async def resolve(self, run_id: RunId, step_id: str, item: int, outcome: Any, output: JsonValue) -> None:
        told = Resolve(id=self.clock.new_id(), step_id=step_id, item=item, outcome=outcome, output=output)
        await self.engine.command(run_id, told)

    async def submit(self, spec: dict[str, Any], input_: Any = None, **more: Any) -> RunActor:
        """Accept a run. Returns at once."""
        options = more.pop("options", PLAIN)
        parsed = WorkflowSpec.model_validate({"name": "flow", **spec})
        saved = await self.workflows.save(DEFAULT_WORKSPACE, parsed, "test")
        program = compile_program(parsed, self.registry.resolve, {})
        record = RunRecord(
            id=RunId(more.pop("id", None) or self.clock.new_id()),
            workspace=DEFAULT_WORKSPACE,
            workflow_id=saved.id,
            workflow=saved.name,
            workflow_version=saved.version,
            created_at=self.clock.now(),
            input={} if input_ is None else input_,
            context=more.pop("context", {}),
            pins=program.pins,
            **more,
        )
        return self.engine.accept(record, program, options)

    async def run(self, spec: dict[str, Any], input_: Any = None, seconds: float = 10.0) -> RunState:
        """Take a run to its end."""
        actor = await self.submit(spec, input_)
        return await asyncio.wait_for(asyncio.shield(actor.done), seconds)

    async def ended(self, run_id: uuid.UUID, seconds: float = 10.0) -> list[RunEvent]:
        """The events of a run once the journal has its end."""
        return await self.journalled(run_id, "run_completed", "run_failed", "run_cancelled", seconds=seconds)

    async def journalled(self, run_id: uuid.UUID, *types: str, seconds: float = 10.0) -> list[RunEvent]:
        """The events of a run once one of these types is among them."""
        async with asyncio.timeout(seconds):
            while True:
                events = await self.journal.events(run_id, 0, 1_000_000)
                if any(event.type.value in types for event in events):
                    return events
                await asyncio.sleep(0.02)

    async def until(self, condition: Callable[[], bool], seconds: float = 5.0) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.005)


@asynccontextmanager
async def open_room(
    dsn: str,
    directory: Path,
    *,
    clock: Clock | None = None,
    log: Log | None = None,
    exclusive: bool = False,
    start: bool = True,
    programs: Callable[[StoredRun], Program] | None = None,
    whole: bool = False,
) -> AsyncIterator[Room]:
    """An engine that runs; it is stopped in order at the end. Rooms on one `dsn` are engines on one database.

    Args:
        whole: with all that an engine may have besides its journal, but for workers.
    """
    async with AsyncExitStack() as stack:
        clock = clock or SystemClock()
        log = log or Log()
        database = create_engine(dsn)
        stack.push_async_callback(database.dispose)
        async with database.begin() as connection:
            await ensure_partitions(connection, clock.now().date(), 2)
        journal = PostgresJournal(dsn, Objects.open(directory / "objects"))
        stack.push_async_callback(journal.aclose)
        registry = NodeRegistry()
        objects = Objects.open(directory / "objects")
        stores = open_stores(database, clock, objects, KEY)
        for version in [
            *builtin_nodes(EgressPolicy(["127.0.0.0/8"]), variables=stores.variables),
            *log.nodes(),
            fails_until,
            kill_child,
            sleep,
            spin,
            stubborn,
        ]:
            registry.register(version)
        stack.push_async_callback(registry.aclose)
        evaluator = Evaluator()
        stack.push_async_callback(evaluator.aclose)
        processes = await stack.enter_async_context(NodeProcesses())
        performer = Performer(clock, Secrets(database, clock, KEY), processes)
        stack.push_async_callback(performer.aclose)

        def of_run(stored: StoredRun) -> Program:
            return compile_program(WorkflowSpec.model_validate(stored.spec), registry.resolve, stored.record.pins)

        library = Programs(stores.workflows, registry, clock)
        parts = await _open_parts(stores, clock, evaluator, registry, library, stack) if whole else ALONE
        commits: list[Sequence[RunWrite]] = []
        attempts = Attempts(clock, evaluator, performer, parts)
        commands = stores.commands if whole else None
        engine = Engine(journal, clock, attempts, programs or of_run, commits.append, exclusive, commands)
        if start:
            await engine.start()
        stack.push_async_callback(engine.stop)
        if whole:
            await _watch(stores, clock, engine, parts, stack)
        yield Room(
            dsn,
            clock,
            journal,
            stores.workflows,
            registry,
            engine,
            log,
            commits,
            of_run,
            parts,
            stores,
            library,
        )


async def _open_parts(
    stores: Stores,
    clock: Clock,
    evaluator: Evaluator,
    registry: NodeRegistry,
    library: Programs,
    stack: AsyncExitStack,
) -> Parts:
    router = Router(stores.routes, stores.breakers, clock, evaluator, registry)
    await router.start()
    stack.push_async_callback(router.aclose)
    limiter = Limiter(stores.slots, clock)
    limiter.start()
    stack.push_async_callback(limiter.aclose)
    limits = NodeLimits(stores.limits)
    await limits.reload()
    cache = StepCache(stores.step_results, clock)
    cache.start()
    stack.push_async_callback(cache.aclose)
    return Parts(
        router=router,
        limiter=limiter,
        limits=limits,
        cache=cache,
        waits=WaitIndex(evaluator, clock),
        events=stores.events,
        variables=stores.variables,
        workflows=library,
    )


async def _watch(stores: Stores, clock: Clock, engine: Engine, parts: Parts, stack: AsyncExitStack) -> None:
    assert parts.router is not None
    assert parts.limits is not None
    watcher = Watcher(
        stores.generations,
        {
            "routes": (parts.router.reload,),
            "breakers": (parts.router.reload,),
            "limits": (parts.limits.reload,),
            "commands": (engine.read_mail,),
        },
    )
    await watcher.start()
    stack.push_async_callback(watcher.aclose)
    feed = EventFeed(stores.events, engine.on_event, clock)
    feed.start()
    stack.push_async_callback(feed.aclose)


async def crash(room: Room) -> None:
    """Leave the engine as a kill would: nothing more is written, nobody is told."""
    life = room.engine._life
    assert life is not None
    for task in [life, *room.engine._drives.values()]:
        task.cancel()
    await asyncio.wait([life])
    await room.engine._drop_actors()
    room.engine._life = None


async def expire_leases(dsn: str) -> None:
    """Let time pass for every engine on this database, as if none had renewed."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("UPDATE owners SET expires_at = now() - interval '1 minute'")
    finally:
        await connection.close()


def ends(events: Sequence[RunEvent]) -> list[tuple[str | None, int, int]]:
    """The attempts that have an end, which is what becomes a trace row."""
    kinds = ("attempt_succeeded", "attempt_failed", "attempt_cancelled")
    return sorted((str(one.step_id), one.item, one.attempt) for one in events if one.type.value in kinds)


def begun(events: Sequence[RunEvent]) -> list[tuple[str | None, int, int]]:
    """The attempts that were begun, with or without a started event."""
    kinds = ("attempt_started", "attempt_succeeded", "attempt_failed", "attempt_cancelled")
    return sorted({(str(one.step_id), one.item, one.attempt) for one in events if one.type.value in kinds})
