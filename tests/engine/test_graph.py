from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.graph import CycleError, StepLinks, build, find_cycle, quorum_of, waits_of
from tests.engine.simulation import World, has_cycle, wanted_waits, worlds

_IDS = [f"s{index}" for index in range(7)]


@st.composite
def any_links(draw):
    """Links without any promise of being acyclic."""
    ids = _IDS[: draw(st.integers(1, 7))]
    steps = st.sampled_from(ids)
    return tuple(
        StepLinks(step, draw(st.frozensets(steps, max_size=2)), draw(st.none() | st.none() | steps)) for step in ids
    )


@settings(max_examples=300, deadline=None)
@given(any_links())
def test_exactly_the_cyclic_ones_are_rejected(links):
    edges = wanted_waits(links)
    try:
        build(links)
    except CycleError as error:
        assert has_cycle(edges)
        path = error.path
        assert path[0] == path[-1]
        assert len(set(path)) == len(path) - 1
        assert all(after in edges[before] for before, after in pairwise(path))
    else:
        assert not has_cycle(edges)


@settings(max_examples=300, deadline=None)
@given(worlds())
def test_edges_and_order(world: World):
    graph = world.graph
    assert {step: set(before) for step, before in waits_of({one.id: one for one in world.links}).items()} == (
        wanted_waits(world.links)
    )
    position = {step: index for index, step in enumerate(graph.order)}
    assert sorted(graph.order) == sorted(one.id for one in world.links)
    for step, node in graph.nodes.items():
        assert all(position[other] < position[step] for other in node.waits)
        assert all(step in graph.nodes[other].dependents for other in node.waits)
        assert all(step in graph.nodes[other].waits for other in node.dependents)


def test_order_is_as_written_where_it_may_be():
    steps = [StepLinks("x"), StepLinks("y"), StepLinks("c", frozenset({"y"})), StepLinks("d", frozenset({"x"}))]
    assert build(steps).order == ("x", "y", "c", "d")


def test_who_uses_a_rescued_step_waits_for_the_last_of_its_fallbacks():
    steps = [
        StepLinks("a", fallback="b"),
        StepLinks("b", fallback="c"),
        StepLinks("c"),
        StepLinks("d", frozenset({"a"})),
    ]
    assert set(build(steps).nodes["d"].waits) == {"a", "b", "c"}


def test_unknown_names_are_an_error():
    with pytest.raises(KeyError, match="nobody"):
        build([StepLinks("a", frozenset({"nobody"}))])
    with pytest.raises(KeyError, match="nobody"):
        build([StepLinks("a", fallback="nobody")])


def test_long_chains_do_not_recurse():
    chain = [StepLinks(f"s{i}", frozenset({f"s{i - 1}"}) if i else frozenset()) for i in range(20_000)]
    assert build(chain).order[-1] == "s19999"
    assert find_cycle({"a": ["b"], "b": []}) is None


@pytest.mark.parametrize(
    ("node", "params", "quorum"),
    [
        ("flow.merge", {}, None),
        ("flow.merge", {"mode": "all"}, None),
        ("flow.merge", {"mode": "any"}, 1),
        ("flow.merge", {"mode": "count", "count": 3}, 3),
        ("flow.merge", {"mode": "count", "count": "{{ input.n }}"}, None),
        ("flow.merge", {"count": 3}, None),
        ("flow.parallel", {"mode": "any"}, None),
    ],
)
def test_the_quorum_is_what_a_merge_says(node, params, quorum):
    assert quorum_of(node, params) == quorum
