from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from core.errors import ErrorClass, StepError, Unavailable
from core.ids import Workspace
from core.manifest import Effect
from core.variable import Variable, VariableScope, VariableSpec
from engine.nodes.variables import vars_set_node
from engine.variables import begin_with
from tests.conftest import ManualClock
from tests.engine.node.step_context import RUN, make_context

NOW = datetime(2026, 3, 14, 9, 0, tzinfo=UTC)
HERE = Workspace("here")


class Kept:
    """What a store would have been told."""

    def __init__(self, away: bool = False) -> None:
        self.told: list[Any] = []
        self.away = away

    async def visible(self, *_: Any) -> dict[str, Variable]:
        return {}

    async def set(self, *told: Any) -> None:
        if self.away:
            raise Unavailable("the database does not answer")
        self.told.append(told)


def context(**more: Any) -> Any:
    return make_context(clock=ManualClock(NOW), **{"workspace": HERE, "workflow": "shop", "session": "ann", **more})


async def test_a_variable_of_the_run_is_only_told() -> None:
    kept = Kept()
    node = vars_set_node(kept)
    assert node.manifest.effect is Effect.IDEMPOTENT
    assert await node({"name": "n", "value": [1]}, context()) == {
        "name": "n",
        "value": [1],
        "scope": "run",
        "expires_at": None,
    }
    assert kept.told == []


@pytest.mark.parametrize(("scope", "owner"), [("global", ""), ("workflow", "shop"), ("session", "ann")])
async def test_wider_scopes_are_kept(scope: str, owner: str) -> None:
    kept = Kept()
    output = await vars_set_node(kept)({"name": "n", "value": 1, "scope": scope, "ttl": "1h"}, context())
    expires_at = NOW + timedelta(hours=1)
    assert output == {"name": "n", "value": 1, "scope": scope, "expires_at": expires_at.isoformat()}
    assert kept.told == [(HERE, VariableScope(scope), owner, "n", 1, expires_at, f"run {RUN}")]


@pytest.mark.parametrize(
    ("store", "params", "session", "error"),
    [
        (None, {"scope": "global"}, "ann", ErrorClass.POLICY),
        (Kept(), {"scope": "session"}, "", ErrorClass.INVALID_INPUT),
        (Kept(), {"value": "x" * 300_000}, "ann", ErrorClass.INVALID_INPUT),
        (Kept(), {"name": "no name"}, "ann", ErrorClass.INVALID_INPUT),
        (Kept(), {"ttl": 0}, "ann", ErrorClass.INVALID_INPUT),
        (Kept(away=True), {"scope": "global"}, "ann", ErrorClass.NETWORK),
    ],
)
async def test_what_cannot_be_set(store: Any, params: dict[str, Any], session: str, error: ErrorClass) -> None:
    with pytest.raises(StepError) as raised:
        await vars_set_node(store)({"name": "n", "value": 1, **params}, context(session=session))
    assert raised.value.error_class is error


def spec(value: Any, scope: VariableScope = VariableScope.RUN, ttl: float | None = None) -> VariableSpec:
    return VariableSpec(value=value, scope=scope, ttl=ttl)


def stored(value: Any, scope: VariableScope, seconds: float | None = None) -> Variable:
    expires_at = None if seconds is None else NOW + timedelta(seconds=seconds)
    return Variable(name="n", value=value, scope=scope, expires_at=expires_at)


@pytest.mark.parametrize(
    ("declared", "kept", "value"),
    [
        (spec(1), None, 1),
        (None, stored(2, VariableScope.GLOBAL), 2),
        (spec(1), stored(2, VariableScope.GLOBAL), 1),
        (spec(1, VariableScope.GLOBAL), stored(2, VariableScope.GLOBAL), 2),
        (spec(1, VariableScope.WORKFLOW), stored(2, VariableScope.GLOBAL), 1),
        (spec(1, VariableScope.WORKFLOW), stored(2, VariableScope.SESSION), 2),
        (spec(1, VariableScope.GLOBAL), stored(2, VariableScope.GLOBAL, 0), 1),
        (spec(1, VariableScope.GLOBAL), stored(2, VariableScope.GLOBAL, 1), 2),
    ],
)
def test_what_a_run_sees(declared: VariableSpec | None, kept: Variable | None, value: int) -> None:
    seen = begin_with({"n": declared} if declared else {}, {"n": kept} if kept else {}, NOW)
    assert seen["n"].value == value


def test_a_declared_value_of_the_run_expires_and_a_wider_one_does_not() -> None:
    seen = begin_with({"a": spec(1, ttl=60), "b": spec(1, VariableScope.GLOBAL, 60)}, {}, NOW)
    assert (seen["a"].expires_at, seen["b"].expires_at) == (NOW + timedelta(minutes=1), None)
