"""Patches of a graph: what has started stays, and what comes out is a spec."""

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import Fault
from core.patch import MAX_OPERATIONS
from core.spec import MAX_STEPS, WorkflowSpec
from engine.node.registry import NodeRegistry
from engine.node.sdk import node
from engine.patch import PatchResult, expansion, patched
from engine.program import compile_program
from engine.validation import Validated, validate


@node("transform.map", version="1.0.0", effect="pure", lane="inline")
def transform_map(value: Any) -> Any:
    return value


@node("house.call", version="1.0.0", effect="pure", lane="inline")
def house_call(url: str, retries: int = 0) -> dict[str, Any]:
    return {}


@node("house.call", version="2.0.0", effect="pure", lane="inline")
def house_call_2(address: str) -> dict[str, Any]:
    return {}


REGISTRY = NodeRegistry()
for _version in (transform_map, house_call, house_call_2):
    REGISTRY.register(_version)


def step(step_id: str, value: Any = 1, **more: Any) -> dict[str, Any]:
    return {"id": step_id, "node": "transform.map", "with": {"value": value}, **more}


def chain(**more: Any) -> dict[str, Any]:
    """a → b → c, and c gives the output."""
    steps = [step("a"), step("b", "{{ steps.a.output }}"), step("c", 3, needs=["b"])]
    return {"name": "w", "steps": steps, "outputs": {"x": "{{ steps.c.output }}"}, **more}


def add(step_id: str, value: Any = 1, before: list[str] | None = None, **more: Any) -> dict[str, Any]:
    return {"op": "add_step", "step": step(step_id, value, **more), **({"before": before} if before else {})}


def good(document: dict[str, Any], operations: list[Any], started: tuple[str, ...] = (), **more: Any) -> PatchResult:
    found = patched(document, operations, started, REGISTRY, **more)
    assert isinstance(found, PatchResult), found
    assert found.spec.to_json()["steps"] == WorkflowSpec.model_validate(found.document).to_json()["steps"]
    return found


def bad(document: dict[str, Any], operations: list[Any], started: tuple[str, ...] = (), **more: Any) -> list[Fault]:
    found = patched(document, operations, started, REGISTRY, **more)
    assert isinstance(found, list), found
    assert found
    assert all(fault.message.endswith((".", "?")) for fault in found), found
    return found


def one(faults: list[Fault]) -> tuple[str, str]:
    assert len(faults) == 1, faults
    return faults[0].path, faults[0].code


class TestOperations:
    def test_a_step_is_put_between_two(self) -> None:
        found = good(chain(), [add("n", "{{ steps.b.output }}", ["c"])], ("a",))
        assert (found.added, found.removed, found.changed) == (("n",), (), ("c",))
        assert found.spec.steps[2].needs == ("b", "n")
        assert found.spec.steps[3].id == "n"

    def test_a_step_is_removed_and_nothing_waits_for_it(self) -> None:
        found = good(chain(), [{"op": "remove_step", "id": "b"}], ("a",))
        assert (found.removed, found.changed) == (("b",), ("c",))
        assert found.document["steps"][1]["needs"] == []

    def test_a_started_step_may_be_left_alone(self) -> None:
        """`a` has no neighbour any more while others have: no fault of this patch."""
        document = chain()
        document["steps"].append(step("d", "{{ steps.c.output }}"))
        good(document, [{"op": "remove_step", "id": "b"}], ("a",))

    def test_parameters_are_added_taken_away_and_replaced(self) -> None:
        document = chain()
        document["steps"][1] = {"id": "b", "node": "house.call@1.0.0", "with": {"url": "u", "retries": 1}}
        document["steps"][1]["needs"] = ["a"]

        def params(**more: Any) -> Any:
            return good(document, [{"op": "update_params", "id": "b", **more}]).spec.steps[1].with_

        assert params(**{"with": {"retries": 2}}) == {"url": "u", "retries": 2}
        assert params(**{"with": {"retries": None}}) == {"url": "u"}
        assert params(**{"with": {"url": "v"}, "replace": True}) == {"url": "v"}
        value = good(chain(), [{"op": "update_params", "id": "c", "with": {"value": None}, "replace": True}])
        assert value.spec.steps[2].with_ == {"value": None}

    def test_a_node_is_replaced(self) -> None:
        operation = {"op": "replace_node", "id": "b", "node": "house.call@^2", "with": {"address": "x"}}
        document = chain()
        document["steps"][1]["needs"] = ["a"]
        found = good(document, [operation], ("a",))
        assert (found.changed, found.spec.steps[1].node) == (("b",), "house.call@^2")
        kept = good(document, [{"op": "replace_node", "id": "b", "node": "transform.map@1.0.0"}])
        assert kept.spec.steps[1].with_ == {"value": "{{ steps.a.output }}"}

    def test_a_user_may_be_changed_in_the_same_patch(self) -> None:
        remove = {"op": "remove_step", "id": "c"}
        assert one(bad(chain(), [remove])) == ("$.operations[0].id", "step_in_use")
        document = chain()
        document["steps"].append(step("d", "{{ steps.c.output }}"))
        document["outputs"] = {"x": "{{ steps.d.output }}"}
        found = good(document, [remove, {"op": "update_params", "id": "d", "with": {"value": "{{ steps.b.output }}"}}])
        assert (found.removed, found.changed) == (("c",), ("d",))

    def test_a_step_may_be_removed_and_added_anew(self) -> None:
        found = good(chain(), [{"op": "remove_step", "id": "c"}, add("c", 9, needs=["b"])])
        assert (found.added, found.removed, found.changed) == ((), (), ("c",))

    def test_pinned_versions_are_those_that_others_are_read_with(self) -> None:
        """The newest `house.call` takes other parameters than the one that the run uses."""
        document = chain()
        document["steps"][0] = {"id": "a", "node": "house.call", "with": {"url": "u"}}
        update = {"op": "update_params", "id": "c", "with": {"value": 4}}
        found = good(document, [update], ("a",), pins={"a": "1.0.0"})
        assert found.spec.steps[0].node == "house.call"
        assert found.pins == {"a": "1.0.0"}
        edit = {"op": "update_params", "id": "a", "with": {"retries": 2}}
        assert good(document, [edit], pins={"a": "1.0.0", "b": "1.0.0"}).pins == {"a": "1.0.0", "b": "1.0.0"}
        replaced = {"op": "replace_node", "id": "a", "node": "house.call@^2", "with": {"address": "x"}}
        assert good(document, [replaced], pins={"a": "1.0.0"}).pins == {}
        assert {fault.path for fault in bad(document, [update], ("a",))} == {
            "$.steps[0].with.url",
            "$.steps[0].with.address",
        }

    def test_the_document_is_not_touched(self) -> None:
        document = chain()
        before = copy.deepcopy(document)
        good(document, [add("n", before=["c"], needs=["a"]), {"op": "update_params", "id": "c", "with": {"value": 8}}])
        bad(document, [{"op": "remove_step", "id": "b"}, {"op": "remove_step", "id": "c"}])
        assert document == before


class TestRefusals:
    @pytest.mark.parametrize(
        "operation",
        [
            {"op": "remove_step", "id": "b"},
            {"op": "update_params", "id": "b", "with": {"value": 2}},
            {"op": "replace_node", "id": "b", "node": "house.call"},
        ],
    )
    def test_a_step_that_has_started(self, operation: dict[str, Any]) -> None:
        faults = bad(chain(), [operation, add("n", needs=["a"], before=["b"])], ("a", "b"))
        assert [(one.path, one.code) for one in faults] == [
            ("$.operations[0].id", "step_started"),
            ("$.operations[1].before[0]", "step_started"),
        ]
        assert "`b`" in faults[0].message

    def test_what_a_started_step_needs_stays(self) -> None:
        """As in a run of which a step was run again alone."""
        faults = bad(chain(), [{"op": "remove_step", "id": "b"}], ("a", "c"))
        assert one(faults) == ("$.operations[0].id", "step_started")
        assert "`c`" in faults[0].message

    def test_a_fallback_that_has_started_rescues_nobody_new(self) -> None:
        document = chain()
        document["steps"][1]["on_error"] = {"use": "f"}
        document["steps"].append(step("f"))
        operation = add("n", needs=["a"], on_error={"use": "f"})
        assert one(bad(document, [operation], ("a", "b", "f"))) == (
            "$.operations[0].step.on_error.use",
            "step_started",
        )
        good(document, [operation], ("a",))
        assert one(bad(document, [{"op": "remove_step", "id": "f"}])) == ("$.operations[0].id", "step_in_use")

    @pytest.mark.parametrize(
        ("operation", "path", "code"),
        [
            ("add", "", "wrong_type"),
            ({}, ".op", "bad_value"),
            ({"op": "add_stepp"}, ".op", "bad_value"),
            ({"op": "remove_step"}, ".id", "missing_field"),
            ({"op": "remove_step", "id": "b", "force": True}, ".force", "unknown_field"),
            ({"op": "remove_step", "id": "not an id"}, ".id", "bad_value"),
            ({"op": "update_params", "id": "c", "with": 3}, ".with", "bad_value"),
            ({"op": "update_params", "id": "cc", "with": {}}, ".id", "unknown_step"),
            ({"op": "replace_node", "id": "c", "node": "n o"}, ".node", "bad_value"),
            ({"op": "replace_node", "id": "c", "node": "transform.mapp"}, ".node", "unknown_node"),
            ({"op": "replace_node", "id": "c", "node": "house.call@9.0.0"}, ".node", "unknown_version"),
            ({"op": "add_step", "step": {}}, ".step.id", "missing_field"),
            ({"op": "add_step", "step": {"id": 7}}, ".step.id", "missing_field"),
            (add("a"), ".step.id", "duplicate_id"),
            (add("alone"), ".step", "orphan_step"),
            (add("n", "{{ steps.nobody.output }}"), ".step.with.value", "unknown_reference"),
            (add("n", "{{ 1 + }}", needs=["a"]), ".step.with.value", "bad_expression"),
            (add("n", needs=["a", "nobody"]), ".step.needs[1]", "unknown_step"),
            (add("n", needs="a"), ".step.needs", "wrong_type"),
            (add("n", needs="a", before=["c"]), ".step.needs", "wrong_type"),
            (add("n", needs=["a"], before=["nobody"]), ".before[0]", "unknown_step"),
            (add("n", "{{ steps.c.output }}", ["b"]), "", "cycle"),
            ({"op": "update_params", "id": "c", "with": {"valeu": 1}}, ".with.valeu", "unknown_parameter"),
            ({"op": "update_params", "id": "c", "with": {"value": None}}, ".with.value", "missing_parameter"),
            ({"op": "update_params", "id": "c", "with": {}, "replace": True}, ".with.value", "missing_parameter"),
        ],
    )
    def test_faults_name_the_operation(self, operation: Any, path: str, code: str) -> None:
        faults = bad(chain(), [{"op": "update_params", "id": "c", "with": {"value": 2}}, operation])
        assert code in [fault.code for fault in faults], faults
        if code != "cycle":  # of a circle any step may be named
            assert (f"$.operations[1]{path}", code) in [(fault.path, fault.code) for fault in faults]

    def test_all_faults_come_at_once(self) -> None:
        document = chain()
        faults = bad(document, [add("n", "{{ x }}", needs=["a"]), add("m", "{{ y }}", needs=["n"])])
        assert [fault.path for fault in faults] == [
            "$.operations[0].step.with.value",
            "$.operations[1].step.with.value",
        ]

    @pytest.mark.parametrize("count", [0, MAX_OPERATIONS + 1])
    def test_the_number_of_operations(self, count: int) -> None:
        assert one(bad(chain(), [add(f"n{i}", needs=["a"]) for i in range(count)])) == ("$.operations", "bad_value")

    def test_the_number_of_steps(self) -> None:
        document = chain()
        document["steps"] += [step(f"s{i}", needs=["c"]) for i in range(MAX_STEPS - 3)]
        assert one(bad(document, [add("n", needs=["a"])])) == ("$.steps", "too_large")


_IDS = [f"s{index}" for index in range(8)]
_any_id = st.sampled_from([*_IDS, "n0", "n1"])
_values = st.one_of(st.integers(), _any_id.map(lambda one: f"{{{{ steps.{one}.output }}}}"))
_operations = st.lists(
    st.one_of(
        st.builds(
            lambda one, value, needs, before: add(one, value, before, needs=needs),
            st.sampled_from(["n0", "n1", "s2"]),
            _values,
            st.lists(_any_id, max_size=2),
            st.lists(_any_id, max_size=2),
        ),
        st.builds(lambda one: {"op": "remove_step", "id": one}, _any_id),
        st.builds(
            lambda one, value, all_: {"op": "update_params", "id": one, "with": {"value": value}, "replace": all_},
            _any_id,
            _values,
            st.booleans(),
        ),
        st.builds(lambda one: {"op": "replace_node", "id": one, "node": "transform.map@1.0.0"}, _any_id),
    ),
    min_size=1,
    max_size=4,
)


@st.composite
def _documents(draw: st.DrawFn) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A valid spec, and steps that may have started: with each all that it waits for."""
    steps = []
    for index, step_id in enumerate(_IDS):
        needs = draw(st.lists(st.sampled_from(_IDS[:index]), max_size=2, unique=True)) if index else []
        used = draw(st.sampled_from(_IDS[:index])) if index and draw(st.booleans()) else None
        steps.append(step(step_id, f"{{{{ steps.{used}.output }}}}" if used else 1, needs=needs))
    document = {"name": "w", "steps": steps, "outputs": {one: f"{{{{ steps.{one}.status }}}}" for one in _IDS[:2]}}
    return document, tuple(_IDS[: draw(st.integers(0, len(_IDS)))])


@settings(max_examples=300, deadline=None)
@given(_documents(), _operations)
def test_what_comes_out_is_a_spec_and_what_has_started_is_as_it_was(
    given_: tuple[dict[str, Any], tuple[str, ...]], operations: list[Any]
) -> None:
    document, started = given_
    before = {one["id"]: one for one in document["steps"]}
    found = patched(document, operations, started, REGISTRY)
    if isinstance(found, list):
        assert found
        return
    after = {one["id"]: one for one in found.document["steps"]}
    assert all(after[one] == before[one] for one in started)
    checked = validate(found.document, REGISTRY)
    if not isinstance(checked, Validated):
        # Only what stood there before may be left alone.
        assert {fault.code for fault in checked} == {"orphan_step"}
        assert {fault.message.split("`")[1] for fault in checked} <= set(before)
    compile_program(found.spec, REGISTRY.resolve, {})
    assert set(found.added) == after.keys() - before.keys()
    assert set(found.removed) == before.keys() - after.keys()
    assert set(found.changed) == {one for one in after.keys() & before.keys() if after[one] != before[one]}


def test_a_plan_is_fitted_in() -> None:
    document = {**chain(), "steps": [*chain()["steps"], step("d", "{{ steps.b.output }}", needs=["c"])]}
    graph = compile_program(WorkflowSpec.model_validate(document), REGISTRY.resolve, {}).graph
    operations = [
        add("b__x", needs=["b"]),
        add("b__y", needs=["b"]),
        add("b__z", needs=["b__x"]),
    ]
    fitted = expansion(graph, "b", operations)
    assert [one.get("before") for one in fitted] == [None, ["c", "d"], ["c", "d"]]
    assert operations[1].get("before") is None
    found = good(document, fitted, ("a", "b"))
    assert set(found.spec.steps[2].needs) == {"b", "b__y", "b__z"}
