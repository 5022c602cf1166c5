"""Which of the runs that wait in this process an event wakes. In memory; the journal knows the waits after a crash."""

import asyncio
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from core.clock import Clock
from core.event import Event
from core.ids import Workspace
from core.json import JsonValue
from engine.events.correlation import Condition, Correlation, Key, key_of, look_up, take_apart
from engine.expression.errors import ExpressionError
from engine.expression.evaluator import NEEDS_HOST, Evaluator, NeedsHost
from engine.expression.program import compile_expression
from engine.expression.template import compile_template

_TURN_SECONDS = 0.01
"""How long the event loop is held before others may run."""


@dataclass(frozen=True, slots=True)
class Wait:
    """What a step waits for.

    Attributes:
        name: the event's name.
        match: CEL over `event` and the names in `variables`; None for every event of the name.
        variables: what `match` may refer to besides: the run's `input`, `vars`, `context`.
        after: events that were received before are not what is waited for; None for all.
    """

    workspace: Workspace
    name: str
    match: str | None = None
    variables: Mapping[str, JsonValue] = field(default_factory=dict)
    after: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Entry:
    """A wait in the index: what remains to be tested, and where it stands (to be found again for its removal)."""

    order: int
    rest: str | None
    variables: Mapping[str, JsonValue]
    after: datetime | None
    topic: tuple[Workspace, str]
    path: tuple[str, ...] | None
    key: Key | None


@dataclass(slots=True)
class _Topic:
    """The waits for one name: those that are looked up, by path and value, and those that are tested one by one."""

    looked_up: dict[tuple[str, ...], dict[Key, dict[Hashable, _Entry]]] = field(default_factory=dict)
    loose: dict[Hashable, _Entry] = field(default_factory=dict)


class WaitIndex:
    """See the module. A `match` that cannot be evaluated for an event does not match it."""

    def __init__(self, evaluator: Evaluator, clock: Clock) -> None:
        self._evaluator = evaluator
        self._clock = clock
        self._topics: dict[tuple[Workspace, str], _Topic] = {}
        self._entries: dict[Hashable, _Entry | None] = {}
        self._added = 0

    def __len__(self) -> int:
        """Waits that are in the index."""
        return len(self._entries)

    def add(self, key: Hashable, wait: Wait) -> None:
        """Wait. A key that waits already waits for this instead.

        Raises:
            ExpressionSyntaxError: `match` is not CEL.
        """
        condition = Condition(None, None) if wait.match is None else take_apart(wait.match)
        self.remove(key)
        self._added += 1
        entry = self._entry(wait, condition)
        self._entries[key] = entry
        if entry is None:
            return
        topic = self._topics.setdefault(entry.topic, _Topic())
        if entry.path is None or entry.key is None:
            topic.loose[key] = entry
        else:
            topic.looked_up.setdefault(entry.path, {}).setdefault(entry.key, {})[key] = entry

    def remove(self, key: Hashable) -> None:
        """Wait no more. A key that does not wait is no fault."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        topic = self._topics[entry.topic]
        if entry.path is None or entry.key is None:
            del topic.loose[key]
        else:
            by_value = topic.looked_up[entry.path]
            del by_value[entry.key][key]
            if not by_value[entry.key]:
                del by_value[entry.key]
            if not by_value:
                del topic.looked_up[entry.path]
        if not topic.loose and not topic.looked_up:
            del self._topics[entry.topic]

    async def matching(self, event: Event) -> list[Hashable]:
        """The keys that the event wakes, in the order in which they began to wait. They stay until they are removed."""
        found: list[tuple[int, Hashable]] = []
        began = self._clock.monotonic()
        for key, entry in list(self._candidates(event)):
            if self._entries.get(key) is not entry:
                continue  # removed, or another wait by now
            if await self._holds(entry, event):
                found.append((entry.order, key))
            if self._clock.monotonic() - began > _TURN_SECONDS:
                await asyncio.sleep(0)
                began = self._clock.monotonic()
        return [key for order, key in sorted(found, key=lambda one: one[0]) if self._is_still(key, order)]

    async def holds(self, key: Hashable, event: Event) -> bool:
        """Whether the event wakes this one: for events of the past, which are of no interest to the others."""
        entry = self._entries.get(key)
        if entry is None or entry.topic != (event.workspace, event.name):
            return False
        if entry.path is not None:
            is_there, value = look_up(event.payload, entry.path)
            if not is_there or key_of(value) != entry.key:
                return False
        return await self._holds(entry, event)

    def _is_still(self, key: Hashable, order: int) -> bool:
        entry = self._entries.get(key)
        return entry is not None and entry.order == order

    def _candidates(self, event: Event) -> Iterator[tuple[Hashable, _Entry]]:
        topic = self._topics.get((event.workspace, event.name))
        if topic is None:
            return
        for path, by_value in topic.looked_up.items():
            is_there, value = look_up(event.payload, path)
            key = key_of(value) if is_there else None
            if key is not None:
                yield from by_value.get(key, {}).items()
        yield from topic.loose.items()

    async def _holds(self, entry: _Entry, event: Event) -> bool:
        if entry.after is not None and event.received_at < entry.after:
            return False
        if entry.rest is None:
            return True
        try:
            value = await self._evaluator.evaluate(entry.rest, {**entry.variables, "event": event.payload})
        except ExpressionError:
            return False
        return value is True

    def _entry(self, wait: Wait, condition: Condition) -> _Entry | None:
        """Where the wait belongs; None when no event can ever match it."""
        rest, path, key = condition.rest, None, None
        correlation = condition.correlation
        if correlation is not None:
            value = self._other_side(correlation, wait.variables)
            if value is None:
                return None
            key = key_of(value[0]) if isinstance(value, tuple) else None
            path = correlation.path if key is not None else None
            if key is None:
                rest = wait.match
        variables = wait.variables if rest is not None else {}
        topic = (wait.workspace, wait.name)
        return _Entry(self._added, rest, variables, wait.after, topic, path, key)

    def _other_side(
        self, correlation: Correlation, variables: Mapping[str, JsonValue]
    ) -> tuple[JsonValue] | NeedsHost | None:
        """What the event is compared with; None when that has no value, and so equals nothing."""
        try:
            compile_expression(correlation.other)
            value = self._evaluator.try_resolve(compile_template("{{ " + correlation.other + " }}"), variables)
        except ExpressionError:
            return None
        return NEEDS_HOST if isinstance(value, NeedsHost) else (value,)
