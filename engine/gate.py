"""What an attempt has to pass before it may start: equal calls under way, and limits.

Both are shared by all processes, so passing takes at least a round trip to the database. Most steps have no gate.
"""

from collections.abc import Callable
from dataclasses import dataclass

from core.ids import RunId
from core.json import JsonValue
from core.limit import SlotAsk
from core.run import NO_ITEM
from engine.cache.key import call_key, named_key
from engine.cache.ports import CacheAsk
from engine.cache.step_cache import Flight, Hit
from engine.expression.evaluator import Evaluator
from engine.limits.limiter import Slots
from engine.limits.scope import step_scope
from engine.parts import Parts
from engine.program import CompiledStep, Program
from engine.serving import Serving
from engine.state import RunState


@dataclass(frozen=True, slots=True)
class Gate:
    """See the module."""

    slots: tuple[SlotAsk, ...] = ()
    cache: CacheAsk | None = None


@dataclass(slots=True)
class Pass:
    """What an attempt got at its gate, and has to give back when it ends."""

    hit: Hit | None = None
    flight: Flight | None = None
    slots: Slots | None = None

    async def give_back(self, encoded: bytes | None) -> None:
        """The attempt is over: others get its room, and its result (JSON text) if there is one."""
        if self.slots is not None:
            self.slots.release()
            self.slots = None
        if self.flight is not None:
            if encoded is not None:
                await self.flight.land(encoded)
            else:
                await self.flight.abandon()


class Gates:
    """Finds the gate of an attempt, and lets it through."""

    def __init__(self, evaluator: Evaluator, parts: Parts) -> None:
        self._evaluator = evaluator
        self._parts = parts

    def stands_before(self, step: CompiledStep, serving: Serving, state: RunState) -> bool:
        """Whether there is anything to pass. Most steps have nothing, so this is quick."""
        if step.step.limit is not None or step.step.cache is not None:
            return True
        limits = self._parts.limits
        if limits is None or limits.empty:
            return False
        workspace = state.record.workspace
        return any(limits.of(workspace, one.manifest.name) for one in (serving.node, serving.base))

    async def before(
        self,
        program: Program,
        state: RunState,
        step: CompiledStep,
        serving: Serving,
        item: int,
        number: int,
        scope: dict[str, JsonValue],
    ) -> Gate:
        """What an attempt has to pass. Raises StepError when a key has no value."""
        cached = step.step.cache is not None and self._parts.cache is not None
        holder = holder_of(state.record.id, step.step.id, item)
        slots = await self._slots(program, state, step, serving, holder, number, scope)
        cache = await self._cache(state, step, serving, holder, scope) if cached else None
        return Gate(slots, cache)

    async def _slots(
        self,
        program: Program,
        state: RunState,
        step: CompiledStep,
        serving: Serving,
        holder: str,
        number: int,
        scope: dict[str, JsonValue],
    ) -> tuple[SlotAsk, ...]:
        record, limit = state.record, step.step.limit
        priority = state.options.priority if state.options.priority is not None else program.spec.policies.priority
        workflow = str(record.workflow_id)
        asks: list[SlotAsk] = []
        if limit is not None:
            key = None if step.limit_key is None else await self._evaluator.resolve(step.limit_key, scope)
            name = step_scope(record.workflow_id, step.step.id, key, step.limit_key is not None)
            who = _who(holder, number, limit.concurrency)
            asks.append(SlotAsk(name, limit.concurrency, limit.rate, who, record.id, workflow, priority))
        for node in dict.fromkeys((serving.node.manifest.name, serving.base.manifest.name)):
            found = self._parts.limits.of(record.workspace, node) if self._parts.limits is not None else None
            if found is not None:
                asks.append(found.ask(_who(holder, number, found.concurrency), record.id, workflow, priority))
        return tuple(asks)

    async def _cache(
        self, state: RunState, step: CompiledStep, serving: Serving, holder: str, scope: dict[str, JsonValue]
    ) -> CacheAsk:
        assert step.step.cache is not None
        manifest = serving.node.manifest
        if step.cache_key is None:
            key = call_key(manifest.name, manifest.version, serving.given)
        else:
            value = await self._evaluator.resolve(step.cache_key, scope)
            key = named_key(state.record.workflow_id, step.step.id, manifest.name, value)
        return CacheAsk(
            workspace=state.record.workspace,
            key=key,
            node=manifest.name,
            version=manifest.version,
            ttl=step.step.cache.ttl,
            holder=holder,
            run_id=state.record.id,
            workflow=state.record.workflow,
            step_id=step.step.id,
        )

    async def let_through(self, gate: Gate, on_wait: Callable[[str, str], None]) -> Pass:
        """Wait for a result that somebody else is about to have, or for room. Cancelled, it has taken nothing."""
        cache, limiter = self._parts.cache, self._parts.limiter
        got = Pass()
        if gate.cache is not None and cache is not None:
            boarded = await cache.board(gate.cache, on_wait)
            if isinstance(boarded, Hit):
                return Pass(hit=boarded)
            got.flight = boarded
        if gate.slots and limiter is not None:
            try:
                got.slots = await limiter.acquire(gate.slots, on_wait)
            except BaseException:
                if got.flight is not None:
                    await got.flight.abandon()
                raise
        return got


def holder_of(run_id: RunId, step_id: str, item: int) -> str:
    """The name under which a step asks for room."""
    return f"{run_id}:{step_id}" if item == NO_ITEM else f"{run_id}:{step_id}:{item}"


def _who(holder: str, number: int, most: int | None) -> str:
    """A place is taken up again after a crash under the same name; a permission to start is for one attempt."""
    return holder if most is not None else f"{holder}#{number}"
