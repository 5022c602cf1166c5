"""An engine in this process on a real journal, and the nodes that its workflows use."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from core.clock import Clock
from core.command import Cancel, Resolve
from core.errors import ErrorClass, StepError
from core.ids import DEFAULT_WORKSPACE, RunId
from core.journal import RunWrite, StoredRun
from core.json import JsonValue
from core.run import RunEvent, RunRecord
from core.spec import WorkflowSpec
from engine.actor import RunActor
from engine.attempt import Attempts
from engine.expression.evaluator import Evaluator
from engine.node.process import NodeProcesses
from engine.node.registry import NodeRegistry
from engine.node.sdk import NodeVersion, StepContext, node
from engine.nodes.builtin import builtin_nodes
from engine.nodes.egress import EgressPolicy
from engine.performer import Performer
from engine.program import Program, compile_program
from engine.runner import Engine
from engine.state import RunState
from infra.clock import SystemClock
from infra.objects import Objects
from infra.postgres.connection import create_engine
from infra.postgres.journal import PostgresJournal
from infra.postgres.partitions import ensure_partitions
from infra.postgres.secrets import SecretKey, Secrets
from infra.postgres.workflows import Workflows
from tests.chaos.user_nodes import fails_until, kill_child, sleep, spin, stubborn

KEY = SecretKey(bytes(32))


@dataclass
class Log:
    """What the test nodes did. `open` is how many are at work, `most` how many ever were at once."""

    calls: list[tuple[str, int, int]] = field(default_factory=list)
    open: int = 0
    most: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def of(self, step_id: str) -> list[int]:
        return [item for step, item, _ in self.calls if step == step_id]

    def nodes(self) -> list[NodeVersion]:
        def note(context: StepContext) -> None:
            self.calls.append((context.step_id, context.item, context.attempt))

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

        return [work, fail, gate, unsafe_gate, doubtful, unspeakable]


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

    async def cancel(self, run_id: RunId, reason: str) -> None:
        await self.engine.command(run_id, Cancel(id=self.clock.new_id(), reason=reason))

    async def resolve(self, run_id: RunId, step_id: str, item: int, outcome: Any, output: JsonValue) -> None:
        told = Resolve(id=self.clock.new_id(), step_id=step_id, item=item, outcome=outcome, output=output)
        await self.engine.command(run_id, told)

    async def submit(self, spec: dict[str, Any], input_: Any = None, **more: Any) -> RunActor:
        """Accept a run. Returns at once."""
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
            context={},
            pins=program.pins,
            **more,
        )
        return self.engine.accept(record, program)

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
) -> AsyncIterator[Room]:
    """An engine that runs; it is stopped in order at the end. Rooms on one `dsn` are engines on one database."""
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
        for version in [
            *builtin_nodes(EgressPolicy(["127.0.0.0/8"])),
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

        commits: list[Sequence[RunWrite]] = []
        engine = Engine(
            journal, clock, Attempts(clock, evaluator, performer), programs or of_run, commits.append, exclusive
        )
        if start:
            await engine.start()
        stack.push_async_callback(engine.stop)
        yield Room(dsn, clock, journal, Workflows(database, clock), registry, engine, log, commits, of_run)


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
