import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.run import NO_ITEM, EventType, RunEvent, RunStatus, StepStatus
from engine.fold import apply
from engine.graph import StepLinks
from engine.state import RunState, fresh
from tests.engine.simulation import RECORD, START, Script, Simulation, Wild, World, worlds

_SEEDS = st.integers(0, 2**32)


def _empty(state: RunState) -> RunState:
    return fresh(state.record, list(state.steps), state.fallbacks)


@settings(max_examples=300, deadline=None)
@given(worlds(), _SEEDS)
def test_replay_gives_the_same_state_however_often_events_are_delivered(world: World, seed: int):
    simulation = Simulation(world, random.Random(seed))
    live = simulation.run()
    replayed = _empty(live)
    for event in simulation.events:
        apply(replayed, event)
    assert replayed == live

    chance = random.Random(seed)
    stuttering = _empty(live)
    for index, event in enumerate(simulation.events):
        apply(stuttering, event)
        apply(stuttering, event)
        apply(stuttering, simulation.events[chance.randrange(index + 1)])
    assert stuttering == live


@settings(max_examples=500, deadline=None)
@given(_SEEDS, st.integers(1, 60))
def test_counts_hold_and_replay_gives_the_same_whatever_happens_to_a_run(seed: int, length: int):
    wild = Wild(random.Random(seed))
    live = wild.run(length)
    replayed = fresh(RECORD, ["a", "b", "c", "d"], {"a": "b"})
    for event in wild.events:
        apply(replayed, event)
        apply(replayed, event)
    assert replayed == live


@settings(max_examples=300, deadline=None)
@given(worlds(), _SEEDS, _SEEDS)
def test_the_end_does_not_depend_on_the_order_of_parallel_events(world: World, one: int, other: int):
    def ends(seed: int) -> dict[str, object]:
        state = Simulation(world, random.Random(seed), stop_when_fatal=False).run()
        return {
            step_id: (step.status, step.output, step.error, step.size, step.attempts, state.view[step_id])
            for step_id, step in state.steps.items()
        }

    assert ends(one) == ends(other)


@settings(max_examples=300, deadline=None)
@given(worlds(), _SEEDS)
def test_outputs_are_the_tasks_outputs(world: World, seed: int):
    state = Simulation(world, random.Random(seed), stop_when_fatal=False).run()
    for step_id, step in state.steps.items():
        script = world.scripts[step_id]
        assert (step.finished_at is not None) == step.status.final
        if step.status is StepStatus.COMPLETED and step.size is None:
            assert step.output == f"{(step_id, NO_ITEM)} done"
        elif step.status is StepStatus.COMPLETED:
            for item, (ends, element) in enumerate(zip(script.tries, step.output, strict=True)):
                task = (step_id, item)
                message = (
                    f"{task} attempt {len(ends)}" if ends[-2:-1] != ("ask",) else f"{task} attempt {len(ends) - 1}"
                )
                failed = {"error": {"class": "network", "message": message}}
                assert element == (failed if ends[-1] == "fail" else f"{task} done")
        elif step.status is StepStatus.FAILED:
            assert step.error is not None
        if step.status in (StepStatus.COMPLETED, StepStatus.FAILED):
            assert step.finished == len(script.tries)
            assert [step.tasks[item].lost for item in sorted(step.tasks)] == [
                ends.count("lost") + ends.count("ask") for ends in script.tries
            ]


def _event(seq: int, kind: EventType, step: str | None = None, **more) -> RunEvent:
    return RunEvent(RECORD.id, seq, kind, START, step, **more)


def test_a_gap_in_the_journal_is_an_error():
    state = fresh(RECORD, ["a"], {})
    apply(state, _event(1, EventType.RUN_CREATED))
    with pytest.raises(ValueError, match=r"event 3 .* does not follow event 1"):
        apply(state, _event(3, EventType.ATTEMPT_STARTED, "a", attempt=1))
    assert state.seq == 1


def test_cancelling_ends_every_step_that_was_open():
    links = (StepLinks("a"), StepLinks("b", frozenset({"a"})))
    simulation = Simulation(World(links, {"a": Script(), "b": Script()}), random.Random(0))
    simulation.emit(EventType.RUN_CREATED)
    simulation.emit(EventType.ATTEMPT_STARTED, "a", NO_ITEM, 1)
    simulation.emit(EventType.CANCEL_REQUESTED, reason="not wanted")
    simulation.emit(EventType.ATTEMPT_CANCELLED, "a", NO_ITEM, 1)
    simulation.emit(EventType.RUN_CANCELLED)
    state = simulation.state
    assert (state.status, state.cancel_reason) == (RunStatus.CANCELLED, "not wanted")
    assert [step.status for step in state.steps.values()] == [StepStatus.CANCELLED] * 2
    assert (state.open, state.active, state.asleep) == (0, 0, 0)
    assert state.steps["a"].task.attempt_at is None


def test_a_foreach_runs_again_when_its_last_question_is_answered():
    state = fresh(RECORD, ["a"], {})
    lost = {"error": {"class": "worker_lost"}, "next": "ask", "lost": True}
    apply(state, _event(1, EventType.RUN_CREATED))
    apply(state, _event(2, EventType.FOREACH_EXPANDED, "a", data={"size": 2}))
    for item in (0, 1):
        apply(state, _event(3 + 2 * item, EventType.ATTEMPT_STARTED, "a", item=item, attempt=1))
        apply(state, _event(4 + 2 * item, EventType.ATTEMPT_FAILED, "a", item=item, attempt=1, data=lost))
    answer = _event(7, EventType.STEP_RESOLVED, "a", item=0, data={"outcome": "retry"})
    apply(state, answer)
    assert state.steps["a"].status is StepStatus.OUTCOME_UNKNOWN
    apply(state, replace(answer, seq=8, item=1))
    assert state.steps["a"].status is StepStatus.RUNNING
