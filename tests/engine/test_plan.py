import random

from hypothesis import given, settings
from hypothesis import strategies as st

from core.run import StepStatus
from engine.graph import StepLinks, build
from engine.plan import Move, all_moves, moves_after, why_skipped
from engine.state import fresh
from tests.engine.simulation import RECORD, Script, Simulation, World, worlds

_SEEDS = st.integers(0, 2**32)


@settings(max_examples=300, deadline=None)
@given(worlds(), _SEEDS)
def test_every_run_ends_and_nothing_moves_early_or_twice(world: World, seed: int):
    """The checks are in the simulation: after each event and at each move."""
    simulation = Simulation(world, random.Random(seed))
    state = simulation.run()
    if not simulation.doomed:
        assert all(step.status.final for step in state.steps.values())
        assert sorted(simulation.moved) == sorted(state.steps)
    assert state.open == 0


@settings(max_examples=300, deadline=None)
@given(worlds(), _SEEDS)
def test_who_is_skipped(world: World, seed: int):
    simulation = Simulation(world, random.Random(seed), stop_when_fatal=False)
    steps = simulation.run().steps
    for one in world.links:
        rescued = [other.id for other in world.links if other.fallback == one.id]
        if not world.scripts[one.id].runs:
            expected = True
        elif rescued:
            expected = all(steps[other].status is not StepStatus.FAILED for other in rescued)
        elif one.quorum is not None:
            expected = sum(steps[need].status is StepStatus.COMPLETED for need in one.needs) < one.quorum
        else:
            skipped = [steps[need].status is StepStatus.SKIPPED for need in one.needs]
            expected = bool(skipped) and all(skipped) and not one.joins
        assert (steps[one.id].status is StepStatus.SKIPPED) == expected


@settings(max_examples=300, deadline=None)
@given(worlds(), _SEEDS)
def test_a_run_fails_exactly_when_a_failure_is_left_standing(world: World, seed: int):
    simulation = Simulation(world, random.Random(seed))
    steps = simulation.run().steps
    links = {one.id: one for one in world.links}

    def stands(step: str) -> bool:
        one = links[step]
        if steps[step].status is not StepStatus.FAILED or one.continues:
            return False
        return one.fallback is None or steps[one.fallback].status is StepStatus.SKIPPED

    assert simulation.doomed == any(stands(step) for step in links)


def _run(links: list[StepLinks], **scripts: Script) -> Simulation:
    world = World(tuple(links), {one.id: scripts.get(one.id, Script()) for one in links})
    simulation = Simulation(world, random.Random(0))
    simulation.run()
    return simulation


def test_a_merge_with_a_quorum_starts_with_the_first_and_only_once():
    needs = frozenset({"a", "b", "c"})
    links = [StepLinks("a"), StepLinks("b"), StepLinks("c"), StepLinks("m", needs, joins=True, quorum=2)]
    graph = build(links)
    state = fresh(RECORD, [one.id for one in links], {})
    for step, due in (("c", []), ("a", [("m", Move.START)]), ("b", [])):
        state.steps[step].status = StepStatus.COMPLETED
        assert moves_after(graph, state, [step]) == due
    assert all_moves(graph, state) == [("m", Move.START)]


def test_a_merge_that_cannot_reach_its_quorum_is_skipped_with_a_reason():
    links = [StepLinks("a", continues=True), StepLinks("b"), StepLinks("m", frozenset("ab"), joins=True, quorum=2)]
    simulation = _run(links, a=Script(tries=(("fail",),)))
    assert simulation.state.steps["m"].status is StepStatus.SKIPPED
    assert why_skipped(build(links), "m") == "fewer than 2 of the steps that it needs were completed"


def test_a_fallback_that_declines_leaves_the_failure_standing():
    links = [StepLinks("pay", fallback="queue"), StepLinks("queue"), StepLinks("tell", frozenset({"pay"}))]
    simulation = _run(links, pay=Script(tries=(("fail",),)), queue=Script(runs=False))
    assert simulation.doomed
    assert simulation.state.error == {"class": "network", "message": "('pay', -1) attempt 1"}
    assert simulation.state.steps["tell"].status is StepStatus.CANCELLED


def test_a_fallback_runs_although_all_that_it_needs_was_skipped():
    links = [StepLinks("pay", fallback="queue"), StepLinks("price"), StepLinks("queue", frozenset({"price"}))]
    simulation = _run(links, pay=Script(tries=(("fail",),)), price=Script(runs=False))
    assert simulation.state.steps["queue"].status is StepStatus.COMPLETED


def test_the_output_of_a_fallback_stands_in_along_the_whole_chain():
    links = [
        StepLinks("first", fallback="second"),
        StepLinks("second", fallback="third"),
        StepLinks("third"),
        StepLinks("user", frozenset({"first"})),
    ]
    failing = Script(tries=(("fail",),))
    simulation = _run(links, first=failing, second=failing)
    assert not simulation.doomed
    assert simulation.state.view["first"]["output"] == "('third', -1) done"
    assert simulation.state.view["first"]["status"] == "failed"
    assert simulation.state.steps["user"].status is StepStatus.COMPLETED
