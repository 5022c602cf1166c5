import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import ErrorClass, StepError
from engine.composition import ChildState, composition_of
from engine.composition.body import Body
from engine.composition.parallel import Branch, Parallel
from engine.nodes import flow
from tests.engine.composition.driver import Driver, completed, failed


def branches(count: int) -> tuple[Branch, ...]:
    return tuple(Branch(f"b{n}", Body(f"w{n}"), {"n": n}) for n in range(count))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=6), st.data(), st.booleans(), st.integers(0, 2**32))
async def test_enough_branches_are_enough(works, data, goes_on, seed):
    enough = data.draw(st.integers(1, len(works)))
    driver = Driver(
        Parallel(branches(len(works)), enough, goes_on),
        lambda ask, tries: completed(ask.input) if works[ask.index] else failed(),
        random.Random(seed),
    )
    progress = await driver.run()
    assert set(progress.cancel) == set(driver.running())
    right = {f"b{n}": {"n": n} for n, works_well in enumerate(works) if works_well}
    if len(right) < enough and not goes_on:
        assert progress.failed is not None
        assert progress.failed.error_class is ErrorClass.NETWORK
        return
    assert progress.done is not None
    output = progress.done.output
    assert output.items() <= right.items()
    assert list(output) == sorted(output)
    assert len(output) >= min(enough, len(right))
    if enough >= len(right):
        assert output == right


async def test_it_fails_as_soon_as_too_few_are_left():
    children = {0: ChildState(0, "failed", error={"class": "auth", "message": "no"}), 1: ChildState(1)}
    progress = await composition_of(Parallel(branches(2), 2)).advance(children, _nothing)
    assert progress.failed is not None
    assert (progress.failed.error_class, progress.failed.message) == (ErrorClass.AUTH, "branch b0: no")
    assert progress.cancel == (1,)
    progress = await composition_of(Parallel(branches(2), 1)).advance(children, _nothing)
    assert progress.failed is None
    assert progress.start == ()


def test_branches_are_workflows_or_steps():
    step = {"id": "a-b", "node": "transform.map", "with": {"value": "{{ input.n }}"}}
    described = flow.parallel.describe(
        {"branches": {"x": {"workflow": "w@3", "input": {"n": 1}}, "y": {"steps": [step]}}}
    )
    assert described == Parallel(
        (
            Branch("x", Body("w@3"), {"n": 1}),
            Branch(
                "y",
                Body(spec={"name": "body", "steps": [step], "outputs": {"a-b": '{{ steps["a-b"].output }}'}}),
                {},
            ),
        ),
        2,
    )
    assert flow.parallel.describe({"branches": {"x": {"workflow": "w"}}, "mode": "any"}).enough == 1


@pytest.mark.parametrize(
    "params",
    [
        {"branches": {}},
        {"branches": {"a": {}}},
        {"branches": {"a": {"workflow": "w", "steps": [{}]}}},
        {"branches": {"a": {"workflow": "w", "outputs": {}}}},
        {"branches": {"a": {"workflow": "w"}}, "mode": 2},
        {"branches": {"a": {"workflow": "w"}}, "mode": 0},
        {"branches": {"a": {"workflow": "w"}}, "mode": True},
        {"branches": {"a": {"workflow": "w", "needs": []}}},
    ],
)
def test_what_makes_no_sense_is_refused(params: Any) -> None:
    with pytest.raises(StepError) as raised:
        flow.parallel.describe(params)
    assert raised.value.error_class is ErrorClass.INVALID_INPUT


async def _nothing(source: str, variables: Any) -> Any:
    raise AssertionError("there is nothing to evaluate")
