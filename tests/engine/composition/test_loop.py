import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import ErrorClass, StepError
from engine.composition import ChildState, composition_of
from engine.composition.body import Body
from engine.composition.loop import Loop
from engine.composition.subworkflow import SubWorkflow
from engine.nodes import flow
from tests.engine.composition.driver import Driver, completed, failed


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.booleans(), st.integers(0, 2**32))
async def test_it_ends_with_the_condition_or_with_the_bound(holds_at, bound, goes_on, seed):
    driver = Driver(
        Loop(Body("poll"), {"id": 7}, "output.n >= …", bound, 0, goes_on),
        lambda ask, tries: completed({"n": ask.input["loop"]["index"] + 1, "before": ask.input["loop"]["previous"]}),
        random.Random(seed),
        verdicts=lambda variables: variables["output"]["n"] >= holds_at and variables["input"] == {"id": 7},
    )
    progress = await driver.run()
    assert driver.most_running == 1
    assert len(driver.children) == min(holds_at, bound)
    assert driver.asked[0].input == {"id": 7, "loop": {"index": 0, "previous": None}}
    if holds_at <= bound or goes_on:
        assert progress.done is not None
        output = progress.done.output
        assert (output["iterations"], output["exhausted"]) == (len(driver.children), holds_at > bound)
        assert output["output"]["n"] == len(driver.children)
    else:
        assert progress.failed is not None
        assert progress.failed.error_class is ErrorClass.POLICY


async def test_a_delay_stands_between_iterations():
    driver = Driver(
        Loop(Body("poll"), {}, "…", 3, 5.0),
        lambda ask, tries: completed(ask.index),
        random.Random(0),
        verdicts=lambda variables: variables["index"] == 2,
    )
    await driver.run()
    assert driver.delays == [None, 5.0, 5.0]


@pytest.mark.parametrize("verdict", [None, 1, "yes"])
async def test_a_condition_that_is_none_fails_the_step(verdict: Any):
    driver = Driver(
        Loop(Body("x"), {}, "…", 3), lambda ask, tries: completed(1), random.Random(0), verdicts=lambda _: verdict
    )
    progress = await driver.run()
    assert progress.failed is not None
    assert progress.failed.error_class is ErrorClass.EXPRESSION


async def test_an_iteration_that_fails_ends_the_loop():
    driver = Driver(Loop(Body("x"), {}, "…", 3), lambda ask, tries: failed("no", "odd"), random.Random(0))
    progress = await driver.run()
    assert progress.failed is not None
    assert (progress.failed.error_class, progress.failed.message) == (ErrorClass.INTERNAL, "iteration 0: no")


def test_the_loop_node():
    described = flow.loop.describe(
        {"until": "output.ok", "workflow": "poll", "delay": "2s", "on_exhausted": "continue"}
    )
    assert described == Loop(Body("poll"), {}, "output.ok", 100, 2.0, True)
    for wrong in (
        {"until": "true"},
        {"until": "", "workflow": "x"},
        {"until": "1", "workflow": "x", "max_iterations": 0},
    ):
        with pytest.raises(StepError):
            flow.loop.describe(wrong)


async def test_a_subworkflow_gives_what_it_gives():
    described = flow.subworkflow.describe({"workflow": "pay@2", "input": {"a": 1}, "context": {"tier": "gold"}})
    assert described == SubWorkflow(Body("pay@2"), {"a": 1}, {"tier": "gold"})
    composition = composition_of(described)

    async def none(source: str, variables: Any) -> Any:
        raise AssertionError

    ask = (await composition.advance({}, none)).start[0]
    assert (ask.index, ask.workflow, ask.spec, ask.input, ask.context) == (0, "pay@2", None, {"a": 1}, {"tier": "gold"})
    assert (await composition.advance({0: ChildState(0)}, none)).start == ()
    done = (await composition.advance({0: ChildState(0, "completed", {"b": 2})}, none)).done
    assert done is not None
    assert done.output == {"b": 2}
    stopped = (await composition.advance({0: ChildState(0, "cancelled")}, none)).failed
    assert stopped is not None
    assert (stopped.error_class, stopped.message) == (ErrorClass.CANCELLED, "its run was cancelled")
