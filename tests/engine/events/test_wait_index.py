import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.event import Event
from core.ids import Workspace
from engine.events.wait_index import Wait, WaitIndex
from engine.expression.errors import ExpressionError, ExpressionSyntaxError
from engine.expression.evaluator import Evaluator
from infra.clock import SystemClock

HERE = Workspace("here")
NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
async def evaluator() -> AsyncIterator[Evaluator]:
    evaluator = Evaluator()
    yield evaluator
    await evaluator.aclose()


@pytest.fixture
def index(evaluator: Evaluator) -> WaitIndex:
    return WaitIndex(evaluator, SystemClock())


def event(payload: Any, name: str = "paid", workspace: str = HERE, at: datetime = NOON) -> Event:
    return Event(uuid.UUID(int=1), Workspace(workspace), name, payload, at)


def wait(match: str | None = None, name: str = "paid", **variables: Any) -> Wait:
    return Wait(HERE, name, match, variables)


async def test_without_a_match_every_event_of_the_name_wakes(index: WaitIndex) -> None:
    index.add("a", wait())
    index.add("b", wait(name="other"))
    assert await index.matching(event({"x": 1})) == ["a"]
    assert await index.matching(event({}, workspace="there")) == []
    index.remove("a")
    index.remove("a")
    assert await index.matching(event({})) == []
    assert len(index) == 1


async def test_a_wait_is_woken_by_its_order_only(index: WaitIndex) -> None:
    for number in range(50):
        index.add(number, wait("event.order_id == input.order_id", input={"order_id": number}))
    assert await index.matching(event({"order_id": 17.0})) == [17]
    assert await index.matching(event({"order_id": "17"})) == []
    assert await index.matching(event({})) == []
    assert await index.matching(event("17")) == []
    index.remove(17)
    assert await index.matching(event({"order_id": 17})) == []


async def test_the_rest_of_the_match_counts(index: WaitIndex) -> None:
    match = "event.id == input.id && event.amount > vars.least"
    index.add("a", wait(match, input={"id": "x"}, vars={"least": 10}))
    assert await index.matching(event({"id": "x", "amount": 11})) == ["a"]
    assert await index.matching(event({"id": "x", "amount": 10})) == []
    assert await index.matching(event({"id": "x", "amount": "many"})) == []
    assert await index.matching(event({"id": "x"})) == []


async def test_a_wait_that_nothing_can_match(index: WaitIndex) -> None:
    index.add("a", wait("event.id == input.missing", input={}))
    assert await index.matching(event({"id": None})) == []
    index.remove("a")
    assert len(index) == 0


async def test_the_same_key_again_waits_for_the_new_thing(index: WaitIndex) -> None:
    index.add("a", wait("event.id == 1"))
    index.add("a", wait("event.id == 2"))
    assert await index.matching(event({"id": 1})) == []
    assert await index.matching(event({"id": 2})) == ["a"]


async def test_order_is_that_of_waiting(index: WaitIndex) -> None:
    index.add("c", wait("event.id > 0"))
    index.add("b", wait("event.id == 1"))
    index.add("a", wait())
    assert await index.matching(event({"id": 1})) == ["c", "b", "a"]


async def test_an_event_from_before_the_wait(index: WaitIndex) -> None:
    index.add("a", Wait(HERE, "paid", after=NOON))
    assert await index.matching(event({}, at=NOON - timedelta(seconds=1))) == []
    assert await index.matching(event({}, at=NOON)) == ["a"]


async def test_one_that_is_removed_meanwhile_is_not_found(index: WaitIndex) -> None:
    # Too costly to be evaluated in process, so others run in between.
    slow = "event.xs.map(x, event.xs.map(y, x + y).size()).size() == 40"
    index.add("a", wait(slow))
    index.add("b", wait(slow))
    finding = asyncio.create_task(index.matching(event({"xs": list(range(40))})))
    await asyncio.sleep(0)
    index.remove("a")
    assert await finding == ["b"]


def test_what_is_no_expression_is_told_at_once(index: WaitIndex) -> None:
    index.add("a", wait())
    with pytest.raises(ExpressionSyntaxError):
        index.add("a", wait("event.id =="))
    assert len(index) == 1


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([0.0, -0.0, 1.0, 1.5, 2.0, 2**53, 2**53 + 1, float(2**53), 2**62, 1e300]),
    st.sampled_from(["", "1", "a", "é", "true"]),
)
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=2), st.dictionaries(st.sampled_from("ab"), SCALARS, max_size=2))
ATOMS = st.sampled_from(
    [
        "event.a == input.x",
        "input.x == event.a",
        'event["b"].a == vars.y',
        "event.a == input.x + 1",
        "event.a == 1",
        'event.a == "1"',
        "event.b == null",
        "event.a == duration('1s')",
        "event.a != input.x",
        "event.a == input.missing",
        "(event.a == input.x)",
        "event.a == input.x || event.b == vars.y",
        "event.a == input.x == true",
        "has(event.a)",
        "true",
        "event.a",
        "event.b > 0",
    ]
)
MATCHES = st.lists(ATOMS, min_size=1, max_size=3).map(" && ".join)
OBJECTS = st.dictionaries(st.sampled_from("ab"), VALUES)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(match=MATCHES, payload=st.one_of(OBJECTS, SCALARS), x=VALUES, y=VALUES)
async def test_the_index_says_what_evaluation_says(
    evaluator: Evaluator, match: str, payload: Any, x: Any, y: Any
) -> None:
    variables = {"input": {"x": x}, "vars": {"y": y}}
    index = WaitIndex(evaluator, SystemClock())
    index.add("a", Wait(HERE, "paid", match, variables))
    try:
        holds = await evaluator.evaluate(match, {**variables, "event": payload}) is True
    except ExpressionError:
        holds = False
    assert await index.matching(event(payload)) == (["a"] if holds else [])
    assert await index.holds("a", event(payload)) is holds
    index.remove("a")
    assert await index.matching(event(payload)) == []
    assert not await index.holds("a", event(payload))


async def test_ten_thousand_waits_and_as_many_events(index: WaitIndex) -> None:
    for number in range(10_000):
        match = "event.order_id == input.order_id" if number % 2 else "event.order_id == input.order_id && event.ok"
        index.add(number, wait(match, input={"order_id": f"order-{number}"}))
    began = time.monotonic()
    for number in range(10_000):
        assert await index.matching(event({"order_id": f"order-{number}", "ok": True})) == [number]
        index.remove(number)
    assert time.monotonic() - began < 5.0  # 1,000/s would be 10 s


async def test_waits_that_are_tested_one_by_one_let_others_run(index: WaitIndex) -> None:
    for number in range(5_000):
        index.add(number, wait("event.n > input.n", input={"n": number}))
    gaps = [0.0]

    async def heart() -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0)
            now = time.monotonic()
            gaps.append(now - last)
            last = now

    beating = asyncio.create_task(heart())
    assert len(await index.matching(event({"n": 2_500}))) == 2_500
    beating.cancel()
    assert sorted(gaps)[-2] < 0.05
