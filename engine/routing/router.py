"""Chooses the arm of each attempt, and learns from how attempts end."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from core.clock import Clock
from core.errors import StepError
from core.json import JsonValue
from core.route import Arm, Route
from engine.node.registry import NodeRegistry
from engine.routing.board import Board
from engine.routing.breaker import BreakerState, Verdict, verdict
from engine.routing.choice import ArmChoice, ArmKept, ArmsBusy, ArmState, ArmWanted, ServedBy
from engine.routing.draw import draw, position
from engine.routing.plan import BASE, RoutePlan, is_within, plans_of
from engine.routing.ports import BreakerStore, RouteStore, RuleEvaluator

__all__ = ["ArmChoice", "ArmKept", "ArmState", "ArmWanted", "ArmsBusy", "Router"]

_SHORTEST_WAIT, _LONGEST_WAIT = 0.25, 1.0


@dataclass(frozen=True, slots=True)
class _Drawn:
    kept: ArmKept
    shares: Mapping[str, float]


class Router:
    """The routes of all workspaces, and the breakers of their arms."""

    def __init__(
        self,
        routes: RouteStore,
        breakers: BreakerStore,
        clock: Clock,
        rules: RuleEvaluator,
        registry: NodeRegistry,
    ) -> None:
        self._store = routes
        self._board = Board(breakers, clock)
        self._clock = clock
        self._rules = rules
        self._registry = registry
        self._plans: dict[tuple[str, str], RoutePlan] = {}
        self._loading = asyncio.Lock()

    async def start(self) -> None:
        """Load everything. Raises Unavailable."""
        await self.reload()

    async def aclose(self) -> None:
        """Store what is not stored yet."""
        await self._board.aclose()

    async def reload(self) -> None:
        """Load routes and breakers anew: for the topics `routes` and `breakers`. Raises Unavailable."""
        # One at a time: a slow answer must not replace a newer one.
        async with self._loading:
            stored = await self._store.load()
            old, new = self._plans, plans_of(stored)
            kept = {key: old[key] for key in new if key in old and old[key].revision == new[key].revision}
            self._plans = new | kept
            await self._board.reload()

    def routed(self, workspace: str, node: str) -> bool:
        """Whether a node has a route."""
        return (workspace, node) in self._plans

    async def choose(self, wanted: ArmWanted) -> ArmChoice | None:
        """The arm that serves an attempt.

        Returns:
            the choice; None when the route does not say: there is none, no arm of it is in the wanted range, or all
            declared fallbacks have failed too.

        Raises:
            ArmsBusy: no arm may be called now.
        """
        plan = self._plan(wanted)
        if plan is None:
            return None
        drawn = await self._drawn(plan, wanted)
        if drawn is None:
            return None
        assigned = drawn.kept.version
        line = [
            version
            for version in plan.line(assigned, wanted.failed, drawn.shares)
            if is_within(version, wanted.within) and self._has(wanted, version)
        ]
        if not line:
            return None
        version, served_by, state = await self._serving(plan, wanted, line)
        left = plan.line(assigned, (*wanted.failed, version), drawn.shares)
        return self._choice(plan, drawn, version, served_by, state, next((one for one in left if one in line), None))

    def record(
        self, workspace: str, node: str, choice: ArmChoice, error_class: str | None, outcome_counts: bool = True
    ) -> None:
        """Say how an attempt ended.

        Args:
            error_class: None when it succeeded.
            outcome_counts: false when it says nothing about the arm, as when the caller's own deadline cut it off.
        """
        plan = self._plans.get((workspace, node))
        rule = plan.route.breaker if plan is not None else None
        said = verdict(error_class) if outcome_counts else Verdict.NOTHING
        key = (workspace, node, choice.version)
        if choice.served_by in (ServedBy.PROBE, ServedBy.LEAST_BAD):
            self._board.settle(key, rule, said, doubles=choice.served_by is ServedBy.PROBE)
        elif rule is not None:
            self._board.note(key, rule, said)

    def state(self, workspace: str, node: str) -> list[ArmState]:
        """The breakers of a node's arms, in the order of its route; empty without a route."""
        plan = self._plans.get((workspace, node))
        if plan is None:
            return []
        return [self._arm_state(plan.route, (workspace, node, version)) for version in plan.arms]

    def _arm_state(self, route: Route, key: tuple[str, str, str]) -> ArmState:
        if route.breaker is None:
            return ArmState(key[2], "", None, 0, 0)
        now = self._clock.monotonic()
        circuit = self._board.circuit(key)
        opened = circuit.opened
        if opened is None:
            calls, failures = circuit.window.totals(route.breaker.window, now)
            return ArmState(key[2], BreakerState.CLOSED, None, calls, failures)
        until = self._clock.now() + timedelta(seconds=opened.until - now)
        return ArmState(key[2], circuit.state(now), until, opened.calls, opened.failures)

    def _plan(self, wanted: ArmWanted) -> RoutePlan | None:
        plan = self._plans.get((wanted.workspace, wanted.node))
        weights = wanted.override.weights if wanted.override is not None else None
        if plan is not None or not weights:
            return plan
        # A step may spread its calls over versions of a node that has no route.
        labels = self._registry.within(wanted.workspace).labels(wanted.node)
        arms = {labels.get(name, name): Arm(version=labels.get(name, name), weight=0.0) for name in weights}
        named = {number: label for label, number in labels.items()}
        known = [
            arm.model_copy(update={"label": named.get(version)})
            for version, arm in arms.items()
            if self._has(wanted, version)
        ]
        return RoutePlan.of(0, Route(arms=tuple(known))) if known else None

    def _has(self, wanted: ArmWanted, version: str) -> bool:
        return self._registry.within(wanted.workspace).has(wanted.node, version)

    async def _drawn(self, plan: RoutePlan, wanted: ArmWanted) -> _Drawn | None:
        missing = frozenset(version for version in plan.arms if not self._has(wanted, version))
        shares = None
        if wanted.override is not None and wanted.override.weights:
            shares = plan.overridden(wanted.override.weights, wanted.within, missing)
        if shares is None:
            shares = plan.shares(await self._rule(plan.route, wanted), wanted.within, missing)
            # A rule may leave nobody who is in the range.
            shares = shares or plan.shares(BASE, wanted.within, missing)
        kept = wanted.kept
        if kept is not None and self._keeps(plan, kept, wanted, missing):
            return _Drawn(kept, shares or {})
        if shares is None:
            return None
        version, probability = draw(shares, position(wanted.node, plan.revision, wanted.unit))
        return _Drawn(ArmKept(version, probability, plan.revision), shares)

    def _keeps(self, plan: RoutePlan, kept: ArmKept, wanted: ArmWanted, missing: frozenset[str]) -> bool:
        # An arm that was taken out of the route is given up, also by tasks that had drawn it.
        return kept.version in plan.arms and kept.version not in missing and is_within(kept.version, wanted.within)

    async def _rule(self, route: Route, wanted: ArmWanted) -> int:
        """The index of the first rule that holds. One that cannot be evaluated does not."""
        if not route.rules:
            return BASE
        scope: dict[str, JsonValue] = {
            "input": wanted.input,
            "context": dict(wanted.context),
            "features": dict(wanted.features),
            "hour": wanted.now.hour,
            "weekday": wanted.now.weekday(),
        }
        for index, rule in enumerate(route.rules):
            try:
                if await self._rules.evaluate(rule.when, scope) is True:
                    return index
            except StepError:
                continue
        return BASE

    async def _serving(self, plan: RoutePlan, wanted: ArmWanted, line: Sequence[str]) -> tuple[str, ServedBy, str]:
        first, others = line[0], line[1:]
        plainly = ServedBy.FALLBACK if wanted.failed else ServedBy.DRAWN
        if plan.route.breaker is None:
            return first, plainly, ""
        keys = {version: (wanted.workspace, wanted.node, version) for version in line}
        if self._board.state(keys[first]) is BreakerState.CLOSED:
            return first, plainly, BreakerState.CLOSED
        if await self._probes(keys[first]):
            return first, ServedBy.PROBE, BreakerState.HALF_OPEN
        for version in others:
            if self._board.state(keys[version]) is BreakerState.CLOSED:
                instead = ServedBy.FALLBACK if wanted.failed else ServedBy.BREAKER
                return version, instead, BreakerState.CLOSED
        for version in others:
            if await self._probes(keys[version]):
                return version, ServedBy.PROBE, BreakerState.HALF_OPEN
        return await self._least_bad([keys[version] for version in line])

    async def _probes(self, key: tuple[str, str, str]) -> bool:
        return self._board.state(key) is BreakerState.HALF_OPEN and await self._board.claim(key)

    async def _least_bad(self, keys: Sequence[tuple[str, str, str]]) -> tuple[str, ServedBy, str]:
        now = self._clock.monotonic()

        def badness(key: tuple[str, str, str]) -> tuple[float, float]:
            opened = self._board.circuit(key).opened
            return (opened.failure_rate, opened.until) if opened is not None else (0.0, 0.0)

        least = min(keys, key=badness)
        if await self._board.claim(least, early=True):
            return least[2], ServedBy.LEAST_BAD, BreakerState.OPEN
        opened = self._board.circuit(least).opened
        remaining = opened.until - now if opened is not None else 0.0
        raise ArmsBusy(least[1], least[2], min(max(remaining, _SHORTEST_WAIT), _LONGEST_WAIT))

    def _choice(
        self, plan: RoutePlan, drawn: _Drawn, version: str, served_by: ServedBy, state: str, following: str | None
    ) -> ArmChoice:
        arm, kept = plan.arms[version], drawn.kept
        timeout = arm.timeout
        if timeout is not None:
            timeout *= 1 + plan.route.timeout_jitter * self._clock.random()
        return ArmChoice(
            version=version,
            label=plan.label(version),
            assigned=kept.version,
            assigned_label=plan.label(kept.version),
            probability=kept.probability,
            revision=kept.revision,
            served_by=served_by,
            breaker=str(state),
            timeout=timeout,
            retry=arm.retry,
            next_fallback=following,
        )
