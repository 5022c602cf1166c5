"""Control nodes, bodies inside steps, and what surrounds the steps."""

from typing import Any

import pytest

from core.errors import Fault
from engine.node.registry import NodeRegistry
from engine.nodes.builtin import builtin_nodes
from engine.nodes.egress import EgressPolicy
from engine.program import compile_program
from engine.validation import Validated, validate

REGISTRY = NodeRegistry()
for _version in builtin_nodes(EgressPolicy()):
    REGISTRY.register(_version)


def step(step_id: str = "a", value: Any = 1, **more: Any) -> dict[str, Any]:
    return {"id": step_id, "node": "transform.map", "with": {"value": value}, **more}


def control(node: str, step_id: str = "c", **params: Any) -> dict[str, Any]:
    return {"id": step_id, "node": f"flow.{node}", "with": params}


def check(*steps: Any, known: Any = None, **more: Any) -> Validated | list[Fault]:
    return validate({"name": "w", "steps": list(steps), **more}, REGISTRY, known)


def said(*steps: Any, **more: Any) -> list[tuple[str, str, str | None]]:
    result = check(*steps, **more)
    return [] if isinstance(result, Validated) else [(one.path, one.code, one.suggestion) for one in result]


AB = (step("a"), step("b"))


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, [("event", "missing_parameter")]),
        ({"approval": False}, [("event", "missing_parameter")]),
        ({"event": "x", "approval": True}, [("approval", "bad_value")]),
        ({"event": "x", "form": {}, "approval": True}, [("form", "bad_value"), ("approval", "bad_value")]),
        ({"approval": True, "match": "event.a == 1"}, [("match", "no_sense")]),
        ({"event": "x", "on_reject": "continue"}, [("on_reject", "no_sense")]),
        ({"event": "x", "on_timeout": "continue"}, [("on_timeout", "no_sense")]),
        ({"event": "x", "match": "steps.a.output == 1"}, [("match", "unknown_reference")]),
        ({"event": "x", "match": "{{ event.a }}"}, [("match", "bad_expression")]),
        ({"form": {"type": "objekt"}}, [("form", "bad_schema")]),
        ({"event": "x", "role": "boss"}, [("role", "bad_value")]),
        ({"event": "{{ input.e }}", "match": "event.id == input.id && context.x == vars.x", "timeout": "5m"}, []),
        ({"form": {"type": "object", "title": "{{ input.title }}"}}, []),
        ({"approval": "{{ input.ask }}", "on_reject": "continue", "timeout": 5, "on_timeout": "continue"}, []),
    ],
)
def test_a_wait_is_for_one_thing(params: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    found = said(control("wait", **params))
    assert [(path, code) for path, code, _ in found] == [(f"$.steps[0].with.{name}", code) for name, code in expected]


@pytest.mark.parametrize(
    ("params", "more", "expected"),
    [
        ({"mode": "any"}, {}, []),
        ({"mode": "count", "count": 2}, {}, []),
        ({"mode": "count", "count": 3}, {}, ("with.count", "bad_value")),
        ({"mode": "count"}, {}, ("with.count", "missing_parameter")),
        ({"mode": "count", "count": 0}, {}, ("with.count", "bad_value")),
        ({"mode": "count", "count": "{{ input.n }}"}, {}, ("with.count", "not_literal")),
        ({"mode": "{{ input.m }}"}, {}, ("with.mode", "not_literal")),
        ({"count": 1}, {}, ("with.count", "no_sense")),
        ({"mode": "some"}, {}, ("with.mode", "bad_value")),
        ({}, {"foreach": [1]}, ("foreach", "no_sense")),
        ({}, {"cache": {"ttl": 5}}, ("cache", "no_sense")),
    ],
)
def test_a_merge_decides_the_graph(params: dict[str, Any], more: dict[str, Any], expected: Any) -> None:
    found = said(*AB, {**control("merge", **params), "needs": ["a", "b"], **more})
    assert [(path, code) for path, code, _ in found] == (
        [(f"$.steps[2].{expected[0]}", expected[1])] if expected else []
    )


def test_the_quorum_is_in_the_graph_of_validation_and_of_the_compiler() -> None:
    result = check(*AB, {**control("merge", mode="any"), "needs": ["a", "b"]})
    assert isinstance(result, Validated)
    program = compile_program(result.spec, REGISTRY.resolve, {})
    assert result.graph.nodes["c"].links.quorum == program.graph.nodes["c"].links.quorum == 1
    assert result.graph.nodes == program.graph.nodes


def test_a_merge_with_a_quorum_is_no_fallback() -> None:
    merge = {**control("merge", mode="any"), "needs": ["b"]}
    assert said(step("a", on_error={"use": "c"}), step("b"), merge) == [("$.steps[2].with.mode", "no_sense", None)]


def test_what_only_follows_an_end_never_runs() -> None:
    end = control("end", status="failed")
    assert said(end, step("x", needs=["c"]), step("y", needs=["x"])) == [("$.steps[1]", "never_runs", None)]
    assert said(end, step("a"), step("x", needs=["c", "a"])) == []
    assert said({**end, "foreach": [1]}) == [("$.steps[0].foreach", "no_sense", None)]


class TestBodies:
    def test_a_body_is_a_workflow_of_its_own(self) -> None:
        inner = [step("x", "{{ input.item }}"), step("y", '{{ steps.x.output + vars.n + run.id + context["a"] }}')]
        body = control("foreach", items="{{ steps.a.output }}", steps=inner, input={"n": "{{ steps.b.output }}"})
        result = check(*AB, body)
        assert isinstance(result, Validated)
        assert result.graph.nodes["c"].links.needs == {"a", "b"}

    def test_faults_stand_where_they_are(self) -> None:
        inner = [
            {"id": "x", "node": "transform.mapp"},
            step("y", "{{ steps.outer.output }} {{ item }}", retry={"max_atempts": 2}),
            step("y"),
            step("z", needs=["z"]),
        ]
        nested = control("loop", "n", until="output.ok", steps=[step("q", when="input.a")])
        loop = control("foreach", items=[1], steps=inner, outputs={"r": "{{ steps.w.output }}"})
        branches = {"left": {"steps": [nested]}, "right": {"workflow": "x", "input": {"v": "{{ steps.nil.output }}"}}}
        found = said(step("outer"), loop, control("parallel", "p", branches=branches))
        assert found == [
            ("$.steps[1].with.steps[0].node", "unknown_node", "transform.map"),
            ("$.steps[1].with.steps[0]", "orphan_step", None),
            ("$.steps[1].with.steps[1].retry.max_atempts", "unknown_field", "max_attempts"),
            ("$.steps[1].with.steps[1].with.value", "unknown_reference", None),
            ("$.steps[1].with.steps[1].with.value", "unknown_reference", "input.item"),
            ("$.steps[1].with.steps[2].id", "duplicate_id", None),
            ("$.steps[1].with.steps[3]", "cycle", None),
            ("$.steps[1].with.outputs.r", "unknown_reference", None),
            ("$.steps[2].with.branches.right.input.v", "unknown_reference", None),
            ("$.steps[2].with.branches.left.steps[0].with.steps[0].when", "bad_expression", "{{ input.a }}"),
        ]

    @pytest.mark.parametrize(
        ("params", "path", "code"),
        [
            ({}, "workflow", "missing_parameter"),
            ({"workflow": "x", "steps": [step()]}, "steps", "bad_value"),
            ({"workflow": "x", "outputs": {}}, "outputs", "bad_value"),
            ({"steps": "{{ input.steps }}"}, "steps", "not_literal"),
            ({"steps": []}, "steps", "bad_value"),
            ({"steps": [5]}, "steps[0]", "wrong_type"),
            ({"steps": [step()], "outputs": [1]}, "outputs", "wrong_type"),
            ({"workflow": "no name"}, "workflow", "bad_value"),
        ],
    )
    def test_a_body_is_a_workflow_or_steps(self, params: dict[str, Any], path: str, code: str) -> None:
        assert [(one, kind) for one, kind, _ in said(control("foreach", items=[1], **params))] == [
            (f"$.steps[0].with.{path}", code)
        ]

    def test_data_never_becomes_steps(self) -> None:
        assert said(control("parallel", branches="{{ input.b }}")) == [
            ("$.steps[0].with.branches", "not_literal", None)
        ]
        assert said(control("parallel", branches={"x": "{{ input.b }}"})) == [
            ("$.steps[0].with.branches.x", "not_literal", None)
        ]

    def test_more_branches_than_there_are(self) -> None:
        assert said(control("parallel", branches={"x": {"workflow": "v"}}, mode=2)) == [
            ("$.steps[0].with.mode", "bad_value", None)
        ]

    def test_a_condition_sees_what_its_node_gives_it(self) -> None:
        assert said(step("a"), control("loop", until="steps.a.output", workflow="x"))[-1] == (
            "$.steps[1].with.until",
            "unknown_reference",
            None,
        )
        assert said(control("loop", until="output.ok || index > input.most", workflow="x")) == []


def test_workflows_that_are_named() -> None:
    steps = (
        control("subworkflow", "s", workflow="there@2"),
        control("subworkflow", "t", workflow="nowhere"),
        control("subworkflow", "u", workflow="{{ input.which }}"),
        control("subworkflow", "v", workflow="w"),
        control("parallel", "p", branches={"x": {"workflow": "nowhere"}}),
        control("foreach", "f", items=[1], steps=[control("subworkflow", workflow="nowhere")]),
    )
    policies = {"fallback_workflow": "nowhere"}
    assert said(*steps, policies=policies) == []
    assert said(*steps, policies=policies, known=lambda name: name == "there") == [
        ("$.policies.fallback_workflow", "unknown_workflow", None),
        ("$.steps[1].with.workflow", "unknown_workflow", None),
        ("$.steps[4].with.branches.x.workflow", "unknown_workflow", None),
        ("$.steps[5].with.steps[0].with.workflow", "unknown_workflow", None),
    ]
    assert said(step(), policies={"fallback_workflow": "w"}) == [("$.policies.fallback_workflow", "cycle", None)]


@pytest.mark.parametrize(
    ("more", "path", "code", "suggestion"),
    [
        ({"cache": {"ttl": "1h", "key": "input.user"}}, "cache.key", "bad_expression", "{{ input.user }}"),
        ({"cache": {"ttl": "1h", "key": "all"}}, "cache.key", "bad_expression", None),
        ({"cache": {"ttl": "1h", "key": "{{ inptu.user }}"}}, "cache.key", "unknown_reference", "input"),
        ({"cache": {"tll": 1, "ttl": 1}}, "cache.tll", "unknown_field", "ttl"),
        ({"limit": {"concurrency": 1, "key": "{{ secrets.K }}"}}, "limit.key", "secret_not_allowed", None),
        ({"limit": {"rate": 5}}, "limit.rate", "wrong_type", None),
        ({"limit": {"key": "{{ item }}"}}, "limit.key", "unknown_reference", None),
        ({"limit": {"key": "{{ item }}"}, "foreach": [1]}, None, None, None),
        ({"route": {"weights": {"1.0.0": 1}}}, None, None, None),
        ({"route": {"weights": {"1.0.1": 1}}}, 'route.weights["1.0.1"]', "unknown_version", "1.0.0"),
        ({"route": {"weights": {"1.0.0": -1}}}, 'route.weights["1.0.0"]', "bad_value", None),
        ({"route": {"weights": {"1.0.0": 0}}}, "route.weights", "bad_sum", None),
        ({"route": {"weights": {}}}, "route.weights", "bad_value", None),
    ],
)
def test_keys_and_shares_of_a_step(more: dict[str, Any], path: Any, code: Any, suggestion: Any) -> None:
    found = said(step("a", **more))
    assert (found[0] if found else None) == (None if path is None else (f"$.steps[0].{path}", code, suggestion))


def test_the_key_of_a_cache_makes_the_step_wait() -> None:
    result = check(step("a", cache={"ttl": "1h", "key": "{{ steps.b.output }}"}), step("b"))
    assert isinstance(result, Validated)
    assert result.graph.nodes["a"].waits == ("b",)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"policies": {"concurrency": "five"}}, ("$.policies.concurrency", "wrong_type", None)),
        ({"policies": {"concurrency": {"max": 0}}}, ("$.policies.concurrency.max", "bad_value", None)),
        (
            {"policies": {"concurrency": {"max": 1, "key": "{{ steps.a.output }}"}}},
            ("$.policies.concurrency.key", "unknown_reference", None),
        ),
        ({"policies": {"concurrency": {"max": 1, "key": "{{ input.user + context.x }}"}}}, None),
        ({"variables": {"a": 1, "b": {"value": [1], "scope": "global", "ttl": "1h"}}}, None),
        ({"variables": {"a": {"value": ["{{ input.x }}"]}}}, ("$.variables.a", "bad_value", None)),
        ({"variables": {"a": {"value": 1, "scope": "glob"}}}, ("$.variables.a.scope", "bad_value", "global")),
        ({"variables": {"a b": 1}}, ('$.variables["a b"]', "bad_value", None)),
        ({"triggers": [{"type": "corn"}]}, ("$.triggers[0].type", "bad_value", "cron")),
        ({"triggers": [{"schedule": "* * * * *"}]}, ("$.triggers[0].type", "missing_field", None)),
        (
            {"triggers": [{"type": "webhook", "path": "a", "metods": []}]},
            ("$.triggers[0].metods", "unknown_field", "methods"),
        ),
        ({"triggers": [5]}, ("$.triggers[0]", "wrong_type", None)),
    ],
)
def test_what_surrounds_the_steps(more: dict[str, Any], expected: Any) -> None:
    assert said(step(), **more) == ([expected] if expected else [])


def test_variables_that_nobody_declared_are_no_fault() -> None:
    assert said(step("a", "{{ vars.region }}"), variables={"regions": 1}) == []
