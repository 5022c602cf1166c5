import random
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import ErrorClass, StepError
from engine.composition import ChildState, composition_of
from engine.composition.body import Body
from engine.composition.foreach import ForEach
from engine.nodes import flow
from tests.engine.composition.driver import Driver, completed, failed


@st.composite
def scripts(draw):
    """For each item how many tries fail before one succeeds."""
    return draw(st.lists(st.sampled_from([0, 0, 0, 1, 2, 5]), max_size=40))


@settings(max_examples=150, deadline=None)
@given(scripts(), st.integers(1, 7), st.integers(0, 3), st.integers(0, 40), st.booleans(), st.integers(0, 2**32))
async def test_any_order_gives_the_same(fails, concurrency, retries, most_failures, tells, seed):
    items = [{"n": n} for n in range(len(fails))]
    foreach = ForEach(items, Body("charge"), {"currency": "EUR"}, concurrency, most_failures, retries)
    driver = Driver(
        foreach,
        lambda ask, tries: (
            completed(ask.input["item"]["n"] * 2) if tries > fails[ask.index] else failed(f"try {tries}")
        ),
        random.Random(seed),
        tells=tells,
    )
    progress = await driver.run()
    assert driver.most_running <= concurrency
    lost = [index for index, count in enumerate(fails) if count > retries]
    if len(lost) > most_failures:
        assert progress.failed is not None
        assert progress.failed.error_class is ErrorClass.NETWORK
        assert sorted(progress.cancel) == sorted(driver.running())
        return
    assert progress.done is not None
    assert progress.done.output == {
        "results": [None if index in lost else index * 2 for index in range(len(fails))],
        "succeeded": len(fails) - len(lost),
        "failed": len(lost),
        "errors": [{"index": index, "class": "network", "message": f"try {retries + 1}"} for index in lost],
    }
    assert all(driver.asked[n].input == {"currency": "EUR", "item": items[n], "index": n} for n in range(len(items)))
    assert all(child.tries == min(fails[n], retries) + 1 for n, child in driver.children.items())


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.integers(0, 19), st.sampled_from(["running", "completed", "failed"])), st.integers(1, 8))
async def test_a_composition_made_anew_goes_on_where_it_was(statuses, concurrency):
    children = {index: ChildState(index, status) for index, status in statuses.items()}
    foreach = ForEach(list(range(20)), Body("x"), {}, concurrency, 20)
    composition = composition_of(foreach)
    progress = await composition.advance(children, _nothing)
    assert await composition.advance(children, _nothing, ()) == progress
    running = sum(child.status == "running" for child in children.values())
    missing = [index for index in range(20) if index not in children]
    assert [ask.index for ask in progress.start] == missing[: max(0, concurrency - running)]


async def test_ten_thousand_items_cost_what_has_changed():
    composition = composition_of(ForEach(list(range(10_000)), Body("x"), {}, 1_000, 10_000))
    children: dict[int, ChildState] = {}
    queue: list[int] = []
    started = time.perf_counter()
    progress = await composition.advance(children, _nothing)
    ended: list[int] = []
    while progress.done is None:
        for ask in progress.start:
            children[ask.index] = ChildState(ask.index)
            queue.append(ask.index)
        index = queue.pop(0)
        status = "failed" if index % 33 == 0 else "completed"
        children[index] = ChildState(index, status, index, {"class": "timeout", "message": "late"})
        ended = [index]
        progress = await composition.advance(children, _nothing, ended)
    assert progress.done.output["failed"] == 304
    assert len(progress.done.output["errors"]) == 100
    assert time.perf_counter() - started < 2  # measured: 0.06 s; looking at all each time takes over 10 s


async def test_the_error_names_the_first_item_and_counts():
    foreach = ForEach([1, 2, 3], Body("x"), {}, 3, 1)
    children = {0: ChildState(0, "completed"), 1: failed("no card", "upstream_4xx"), 2: ChildState(2, "cancelled")}
    progress = await composition_of(foreach).advance(children, _nothing)
    assert progress.failed is not None
    assert progress.failed.error_class is ErrorClass.UPSTREAM_4XX
    assert progress.failed.message == "more than 1 of 3 items failed; item 1: no card"
    assert progress.failed.detail == {"index": 1, "failed": 2}


@pytest.mark.parametrize(
    ("policy", "size", "most"),
    [
        ("fail", 100, 0),
        ("continue", 100, 100),
        ({"max_failures": 3}, 100, 3),
        ({"max_failures": 0.29}, 100, 29),
        ({"max_failures": 0.05}, 10, 0),
        ({"max_failures": 1}, 10, 1),
    ],
)
def test_how_many_may_fail(policy: Any, size: int, most: int) -> None:
    described = flow.foreach.describe({"items": [0] * size, "workflow": "x", "on_item_error": policy})
    assert described.most_failures == most


@pytest.mark.parametrize(
    "params",
    [
        {"items": "no list", "workflow": "x"},
        {"items": [0] * 10_001, "workflow": "x"},
        {"items": []},
        {"items": [], "workflow": "x", "steps": [{"id": "a"}]},
        {"items": [], "workflow": "x", "outputs": {}},
        {"items": [], "steps": []},
        {"items": [], "workflow": "x", "concurrency": 1_001},
        {"items": [], "workflow": "x", "on_item_error": {"max_failures": -1}},
        {"items": [], "workflow": "no name"},
    ],
)
def test_what_makes_no_sense_is_refused(params: Any) -> None:
    with pytest.raises(StepError) as raised:
        flow.foreach.describe(params)
    assert raised.value.error_class is ErrorClass.INVALID_INPUT


async def _nothing(source: str, variables: Any) -> Any:
    raise AssertionError("there is nothing to evaluate")
