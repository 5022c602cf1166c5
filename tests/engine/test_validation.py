import copy
import time
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import Fault
from core.manifest import NodeStatus
from engine.input_check import input_faults
from engine.json_schema import SchemaError, check_schema, validator_of
from engine.node.registry import NodeRegistry
from engine.node.sdk import Cel, Secret, node
from engine.program import compile_program
from engine.references import inferred_needs
from engine.schema import EXAMPLES, workflow_schema
from engine.validation import Validated, validate


@node("http.request", version="1.0.0")
async def http_request(
    url: str,
    method: Literal["GET", "POST"] = "GET",
    headers: Annotated[dict[str, str] | None, Secret] = None,
    retries: int = 0,
    tags: list[int] | None = None,
    json: Any = None,
) -> dict[str, Any]:
    return {}


@node("transform.map", version="1.0.0", effect="pure", lane="inline")
def transform_map(value: Any) -> Any:
    return value


@node("transform.filter", version="1.0.0", effect="pure", lane="inline")
def transform_filter(items: list[Any], where: Annotated[str, Cel]) -> Any:
    return items


@node("draft.only", version="0.1.0", effect="pure", lane="inline", status=NodeStatus.DRAFT)
def draft_only() -> dict[str, Any]:
    return {}


REGISTRY = NodeRegistry()
for _version in (http_request, transform_map, transform_filter, draft_only):
    REGISTRY.register(_version)


def step(step_id: str, value: Any = 1, **more: Any) -> dict[str, Any]:
    return {"id": step_id, "node": "transform.map", "with": {"value": value}, **more}


def call(step_id: str = "call", **params: Any) -> dict[str, Any]:
    return {"id": step_id, "node": "http.request", "with": {"url": "https://x.example", **params}}


def workflow(*steps: Any, **more: Any) -> dict[str, Any]:
    return {"name": "w", "steps": list(steps), **more}


def faults_of(*steps: Any, **more: Any) -> list[Fault]:
    result = validate(workflow(*steps, **more), REGISTRY)
    return result if isinstance(result, list) else []


def said(faults: list[Fault]) -> list[tuple[str, str, str | None]]:
    return [(fault.path, fault.code, fault.suggestion) for fault in faults]


def test_all_faults_are_named_at_once():
    faults = faults_of(
        step("a", "{{ steps.b.output }}"),
        step("b", "{{ steps.a.output }}"),
        step("lonely"),
        {"id": "typo", "node": "http.reqest", "with": {"url": "x"}, "needs": ["a"]},
        {"id": "lacking", "node": "http.request", "with": {"method": "GET"}, "needs": ["a"]},
        step("broken", "{{ input.amount + }}", needs=["a"]),
    )
    assert said(faults) == [
        ("$.steps[0]", "cycle", None),
        ("$.steps[2]", "orphan_step", None),
        ("$.steps[3].node", "unknown_node", "http.request"),
        ("$.steps[4].with.url", "missing_parameter", None),
        ("$.steps[5].with.value", "bad_expression", None),
    ]
    assert "a → b → a" in faults[0].message
    assert "`lonely`" in faults[1].message
    assert "did you mean `http.request`?" in faults[2].message
    assert "`url`" in faults[3].message
    assert "at character" in faults[4].message


def test_a_fault_of_shape_hides_no_fault_of_meaning():
    faults = faults_of(
        step("a", "{{ steps.nobody.output }}", retry={"max_atempts": 2, "on": ["netwrk"], "initial": "soon"}, when=3),
        "not a step",
        {"node": "transform.map", "needs": "a"},
        step("c", "{{ item }}", needs=["a"], on_error="contine"),
        policies={"max_durration": "5s"},
    )
    assert set(said(faults)) == {
        ("$.policies.max_durration", "unknown_field", "max_duration"),
        ("$.steps[0].retry.max_atempts", "unknown_field", "max_attempts"),
        ("$.steps[0].retry.on[0]", "bad_value", "network"),
        ("$.steps[0].retry.initial", "bad_value", None),
        ("$.steps[0].when", "wrong_type", None),
        ("$.steps[0].with.value", "unknown_reference", None),
        ("$.steps[1]", "wrong_type", None),
        ("$.steps[2].id", "missing_field", None),
        ("$.steps[2].needs", "wrong_type", None),
        ("$.steps[2].with.value", "missing_parameter", None),
        ("$.steps[3].on_error", "bad_value", "continue"),
        ("$.steps[3].with.value", "unknown_reference", None),
    }
    assert [fault.message[0].isupper() or fault.message[0] == "`" for fault in faults] == [True] * len(faults)
    assert all(fault.message.endswith((".", "?")) for fault in faults)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ([], ("$", "wrong_type", None)),
        ({"steps": [step("a")]}, ("$.name", "missing_field", None)),
        ({"name": "w"}, ("$.steps", "missing_field", None)),
        ({"name": "w", "steps": []}, ("$.steps", "bad_value", None)),
        ({"name": "no spaces", "steps": [step("a")]}, ("$.name", "bad_value", None)),
        (workflow(step("a", with_={})), ("$.steps[0].with_", "unknown_field", "with")),
        (workflow({**step("a"), "with": []}), ("$.steps[0].with", "wrong_type", None)),
        (workflow(step("a", on_error={})), ("$.steps[0].on_error.use", "missing_field", None)),
        (workflow(step("a", foreach=5)), ("$.steps[0].foreach", "wrong_type", None)),
        (workflow(step("a", concurrency="many")), ("$.steps[0].concurrency", "wrong_type", None)),
        (workflow(step("a", timeout="5 minutes")), ("$.steps[0].timeout", "bad_value", None)),
    ],
)
def test_shapes(document, expected):
    assert said(validate(document, REGISTRY)) == [expected]


def test_bounds():
    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    assert [fault.code for fault in faults_of(step("a", deep))] == ["too_deep"]
    assert [fault.code for fault in faults_of(*[step(f"s{i}") for i in range(2_001)])] == ["too_large"]
    assert [fault.code for fault in faults_of(step("a", "x" * 5_000_000))] == ["too_large"]
    bomb: Any = ["x"]
    for _ in range(60):
        bomb = [bomb, bomb]
    assert [fault.code for fault in faults_of(step("a", bomb))] == ["too_large"]
    endless: list[Any] = []
    endless.append(endless)
    assert [fault.code for fault in faults_of(step("a", endless))] == ["too_deep"]


@pytest.mark.parametrize("value", [{1: "x"}, float("nan"), {"at": time}, b"x"])
def test_values_that_json_does_not_have(value):
    assert [fault.code for fault in faults_of(step("a", value))] == ["bad_value"]


def test_duplicate_ids():
    assert said(faults_of(step("a"), step("a"))) == [("$.steps[1].id", "duplicate_id", None)]


def test_unknown_steps():
    faults = faults_of(step("charge"), step("b", needs=["charg"], on_error={"use": "chrge"}), step("c", needs=["b"]))
    assert said(faults) == [
        ("$.steps[1].needs[0]", "unknown_step", "charge"),
        ("$.steps[1].on_error.use", "unknown_step", "charge"),
    ]


@pytest.mark.parametrize(
    ("ref", "code", "suggestion"),
    [
        ("htpp.request", "unknown_node", "http.request"),
        ("HTTP.Request", "unknown_node", "http.request"),
        ("request", "unknown_node", "http.request"),
        ("quite.different", "unknown_node", None),
        ("http.reqest@1.0.0", "unknown_node", "http.request"),
        ("http.request@2.0.0", "unknown_version", "http.request@1.0.0"),
        ("http.request@^3", "unknown_version", "http.request@1.0.0"),
        ("draft.only", "unknown_version", "draft.only@0.1.0"),
    ],
)
def test_unknown_nodes(ref, code, suggestion):
    assert said(faults_of({"id": "a", "node": ref})) == [("$.steps[0].node", code, suggestion)]


class TestCycles:
    def test_of_one(self):
        faults = faults_of(step("a", "{{ steps.a.output }}"))
        assert said(faults) == [("$.steps[0]", "cycle", None)]
        assert "a → a" in faults[0].message

    def test_every_circle_is_named_from_its_first_step(self):
        faults = faults_of(
            step("c", needs=["d"]),
            step("b", needs=["a"]),
            step("a", when="{{ steps.b.output == 1 }}"),
            step("d", foreach="{{ steps.e.output }}"),
            step("e", "x {{ steps.c.output }}"),
        )
        assert [(fault.path, fault.code) for fault in faults] == [("$.steps[0]", "cycle"), ("$.steps[1]", "cycle")]
        assert "c → d → e → c" in faults[0].message
        assert "b → a → b" in faults[1].message

    def test_a_step_cannot_rescue_itself(self):
        assert said(faults_of(step("a", on_error={"use": "a"}))) == [("$.steps[0].on_error.use", "cycle", None)]

    def test_through_a_fallback_it_says_so(self):
        faults = faults_of(step("a", "{{ steps.b.output }}", on_error={"use": "b"}), step("b"))
        assert [fault.code for fault in faults] == ["cycle"]
        assert "`b` is the fallback of `a`" in faults[0].message

    def test_raw_expressions_count(self):
        raw = {"id": "a", "node": "transform.filter", "with": {"items": [1], "where": "item > steps.b.output"}}
        assert [fault.code for fault in faults_of(raw, step("b", needs=["a"]))] == ["cycle"]


class TestOrphans:
    def test_a_step_that_stands_alone_beside_connected_ones(self):
        faults = faults_of(step("a"), step("b", needs=["a"]), step("alone"))
        assert said(faults) == [("$.steps[2]", "orphan_step", None)]

    @pytest.mark.parametrize(
        "steps",
        [
            [step("a")],
            [step(f"s{i}") for i in range(10)],
            [step("a"), step("b", needs=["a"]), step("c"), step("d", needs=["c"])],
            [step("a", on_error={"use": "b"}), step("b"), step("c", needs=["a"])],
            [step("a"), step("b"), step("c", "{{ steps.a.output + steps.b.output }}")],
        ],
    )
    def test_these_have_none(self, steps):
        assert faults_of(*steps) == []

    def test_outputs_use_a_step(self):
        steps = [step("a"), step("b", needs=["a"]), step("alone")]
        assert faults_of(*steps, outputs={"x": "{{ steps.alone.output }}"}) == []

    @pytest.mark.parametrize("value", ["{{ steps.alnoe.output }}", "{{ steps.alone.output + }}"])
    def test_a_slip_in_the_connection_is_one_fault_and_not_two(self, value):
        assert len(faults_of(step("a"), step("b", value, needs=["a"]), step("alone"))) == 1
        assert len(faults_of(step("a"), step("b", needs=["a"]), step("alone", value.replace("al", "b")))) == 1


class TestParameters:
    @pytest.mark.parametrize(
        ("params", "path", "code", "suggestion"),
        [
            ({"url": 5}, "url", "wrong_type", None),
            ({"retries": "3"}, "retries", "wrong_type", None),
            ({"tags": [1, "x"]}, "tags", "bad_value", None),
            ({"tags": ["{{ input.tag }}", "x"]}, "tags", "bad_value", None),
            ({"headers": "{{ secrets.KEY }}"}, "headers", "wrong_type", None),
            ({"metod": "GET"}, "metod", "unknown_parameter", "method"),
            ({"method": "get"}, "method", "bad_value", "GET"),
            ({"method": ["{{ input.m }}"]}, "method", "wrong_type", None),
            ({"retries": "number {{ input.n }}"}, "retries", "wrong_type", None),
            ({"retries": "{{ secrets.N }}"}, "retries", "secret_not_allowed", None),
        ],
    )
    def test_wrong_constants(self, params, path, code, suggestion):
        faults = faults_of(call(**params))
        assert (f"$.steps[0].with.{path}", code, suggestion) in said(faults)
        assert {fault.path for fault in faults} == {f"$.steps[0].with.{path}"}

    @pytest.mark.parametrize(
        "params",
        [
            {"retries": "{{ input.n }}"},
            {"retries": " {{ input.n }} "},
            {"method": "{{ input.m }}"},
            {"method": "{{ input.a }}{{ input.b }}"},
            {"tags": "{{ input.tags }}"},
            {"tags": [1, "{{ input.tag }}"]},
            {"headers": {"authorization": "Bearer {{ secrets.KEY }}", "x": "{{ input.x }}"}},
            {"headers": "{{ input.headers }}"},
            {"json": {"deep": [{"a": "{{ input.a }}"}]}},
        ],
    )
    def test_expressions_may_become_what_is_wanted(self, params):
        assert faults_of(call(**params)) == []

    def test_every_missing_and_wrong_parameter_is_named(self):
        faults = faults_of({"id": "a", "node": "http.request", "with": {"retries": [], "headers": {"a": 1}, "x-y": 0}})
        assert {(fault.path, fault.code) for fault in faults} == {
            ("$.steps[0].with.url", "missing_parameter"),
            ("$.steps[0].with.retries", "wrong_type"),
            ("$.steps[0].with.headers", "bad_value"),
            ('$.steps[0].with["x-y"]', "unknown_parameter"),
        }


class TestConditionalSchemas:
    """Errors that hang on a value which is not known yet are not errors."""

    SCHEMA: ClassVar[dict[str, Any]] = {
        "type": "object",
        "properties": {"kind": {"enum": ["a", "b"]}, "id": {"pattern": "^x"}, "set": {"uniqueItems": True}},
        "if": {"properties": {"kind": {"const": "a"}}},
        "then": {"required": ["left"]},
        "else": {"required": ["right"]},
        "oneOf": [{"required": ["left"]}, {"required": ["right"]}],
    }

    @pytest.fixture
    def registry(self):
        base = transform_map.manifest.model_copy(update={"name": "conditional", "input_schema": self.SCHEMA})
        registry = NodeRegistry()
        registry.register(replace(transform_map, manifest=base))
        return registry

    @pytest.mark.parametrize(
        ("params", "paths"),
        [
            ({"kind": "a", "left": 1}, []),
            ({"kind": "b", "left": 1}, ["$.steps[0].with.right"]),
            ({"kind": "{{ input.kind }}", "left": 1}, []),
            ({"kind": "{{ input.kind }}"}, ["$.steps[0].with"]),
            ({"kind": "a", "left": 1, "id": "y{{ input.id }}"}, []),
            ({"kind": "a", "left": 1, "id": "y"}, ["$.steps[0].with.id"]),
            ({"kind": "a", "left": 1, "set": ["{{ input.a }}", "{{ input.a }}"]}, []),
            ({"kind": "a", "left": 1, "set": [1, 1]}, ["$.steps[0].with.set"]),
        ],
    )
    def test_conditions(self, registry, params, paths):
        result = validate(workflow({"id": "a", "node": "conditional", "with": params}), registry)
        assert ([] if isinstance(result, Validated) else [fault.path for fault in result]) == paths


class TestExpressions:
    @pytest.mark.parametrize(
        ("value", "suggestion"),
        [
            ("{{ inptu.x }}", "input"),
            ("{{ charge.output }}", "steps.charge"),
            ("{{ steps.chrage.output }}", "charge"),
            ("{{ steps.charge.outptu }}", "output"),
            ("{{ steps.charge.id }}", "output.id"),
            ("{{ steps.two-words.output }}", "two-words"),
            ("{{ item.x }}", None),
            ("{{ index }}", None),
            ("{{ whatever.x }}", None),
            ("{{ input.nmae }}", "name"),
        ],
    )
    def test_unknown_references(self, value, suggestion):
        inputs = {"properties": {"name": {}}, "additionalProperties": False}
        faults = faults_of(
            step("charge"), step("two-words"), step("x", value, needs=["charge", "two-words"]), inputs=inputs
        )
        assert ("$.steps[2].with.value", "unknown_reference", suggestion) in said(faults)
        assert {fault.code for fault in faults} == {"unknown_reference"}

    @pytest.mark.parametrize(
        "value",
        [
            '{{ steps["two-words"].output.a }}',
            "{{ steps.charge.error.message }} {{ steps.charge.status }}",
            "{{ input.name }} {{ vars.x }} {{ context.y }} {{ run.id }}",
            "{{ [1].map(x, x + 1) }}",
        ],
    )
    def test_known_references(self, value):
        assert faults_of(step("charge"), step("two-words", needs=["charge"]), step("x", value, needs=["charge"])) == []

    def test_item_belongs_to_foreach(self):
        assert faults_of(step("a", "{{ item }} {{ index }}", foreach="{{ input.list }}")) == []
        assert faults_of(step("a", "{{ item }}", foreach=[1, "{{ input.x }}"])) == []
        faults = faults_of(step("a", foreach="{{ item }}", when="{{ index == 0 }}"), outputs={"x": "{{ item }}"})
        assert {fault.path for fault in faults} == {"$.steps[0].foreach", "$.steps[0].when", "$.outputs.x"}
        assert {fault.code for fault in faults} == {"unknown_reference"}

    @pytest.mark.parametrize("text", ["steps.a.output", "{{ input.a }} and {{ input.b }}", "x", "{{ secrets.A }} "])
    def test_a_condition_is_one_whole_expression(self, text):
        faults = faults_of(step("a", when=text), step("b", foreach=text, needs=["a"]))
        assert {fault.path for fault in faults} == {"$.steps[0].when", "$.steps[1].foreach"}
        assert {fault.code for fault in faults} <= {"bad_expression", "secret_not_allowed"}

    def test_a_bare_condition_is_offered_in_braces(self):
        assert said(faults_of(step("a", when="input.x > 1"))) == [
            ("$.steps[0].when", "bad_expression", "{{ input.x > 1 }}")
        ]

    def test_every_bad_expression_is_named(self):
        value = {"a": "{{ 1 + }}", "b": ["ok", "{{ (", {"c d": "{{ input.x }}"}], "e": "{{ inptu.x }}"}
        assert {(fault.path, fault.code) for fault in faults_of(step("x", value))} == {
            ("$.steps[0].with.value.a", "bad_expression"),
            ("$.steps[0].with.value.b[1]", "bad_expression"),
            ("$.steps[0].with.value.e", "unknown_reference"),
        }

    def test_raw_expressions(self):
        def where(text: str) -> list[tuple[str, str, str | None]]:
            raw = {"id": "a", "node": "transform.filter", "with": {"items": [1], "where": text}}
            return said(faults_of(raw))

        path = "$.steps[0].with.where"
        assert where("item.x > input.y && index < 3") == []
        assert where("item.x >") == [(path, "bad_expression", None)]
        assert where("{{ item.x }}") == [(path, "bad_expression", None)]
        assert where("itm.x > 1") == [(path, "unknown_reference", "item")]
        assert where("steps.nobody.output") == [(path, "unknown_reference", None)]
        assert where("secrets.KEY") == [(path, "secret_not_allowed", None)]

    @pytest.mark.parametrize("place", ["url", "json", "when", "foreach", "outputs"])
    def test_secrets_stand_only_where_the_node_wants_them(self, place):
        secret = "{{ secrets.KEY }}"
        one = call(**{place: secret}) if place in {"url", "json"} else call()
        outputs = {"x": secret} if place == "outputs" else {}
        one |= {place: secret} if place in {"when", "foreach"} else {}
        assert "secret_not_allowed" in {fault.code for fault in faults_of(one, outputs=outputs)}


class TestInputs:
    @pytest.mark.parametrize(
        "schema",
        [
            {"type": "objct"},
            {"properties": {"a": {"pattern": "("}}},
            {"$ref": "https://schemas.example/x.json"},
            {"properties": {"a": {"$ref": "file:///etc/passwd"}}},
            {"$schema": "http://json-schema.org/draft-07/schema#"},
            {"required": "a"},
        ],
    )
    def test_bad_schemas(self, schema):
        assert said(faults_of(step("a"), inputs=schema)) == [("$.inputs", "bad_schema", None)]

    def test_nothing_is_fetched(self, tmp_path):
        outside = tmp_path / "outside.json"
        outside.write_text('{"type": "object"}')
        (fault,) = faults_of(step("a"), inputs={"$ref": outside.as_uri()})
        assert fault.code == "bad_schema"
        assert "never fetched" in fault.message

    def test_a_schema_may_refer_to_itself(self):
        schema = {"$defs": {"tree": {"properties": {"left": {"$ref": "#/$defs/tree"}}}}, "$ref": "#/$defs/tree"}
        assert faults_of(step("a"), inputs=schema) == []
        with pytest.raises(SchemaError, match="deeper"):
            check_schema({"not": _nested(70)})

    SCHEMA: ClassVar[dict[str, Any]] = {
        "type": "object",
        "required": ["amount"],
        "properties": {"amount": {"type": "number", "minimum": 0}, "currency": {"enum": ["EUR", "USD"]}},
        "additionalProperties": False,
    }

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ({"amount": 5}, []),
            ({}, [("$.input.amount", "missing_field", None)]),
            ({"amount": "5"}, [("$.input.amount", "wrong_type", None)]),
            ({"amount": -1}, [("$.input.amount", "bad_value", None)]),
            ({"amount": 1, "currency": "eur"}, [("$.input.currency", "bad_value", "EUR")]),
            ({"amount": 1, "curency": "EUR"}, [("$.input.curency", "unknown_field", "currency")]),
            (None, [("$.input", "wrong_type", None)]),
        ],
    )
    def test_of_a_run(self, value, expected):
        assert said(input_faults(self.SCHEMA, value)) == expected

    def test_the_sentence_names_field_and_reason(self):
        (fault,) = input_faults(self.SCHEMA, {"amount": "5"})
        assert fault.message == '`amount` must be a number, not a string ("5").'

    def test_a_regular_expression_cannot_hold_the_process(self):
        schema = {"pattern": "^(?=(a+)+$)(a|aa)+$"}
        validator_of(schema)
        began = time.perf_counter()
        assert [fault.code for fault in input_faults(schema, "a" * 2_000 + "b")] == ["bad_value"]
        assert time.perf_counter() - began < 0.5

    def test_it_is_quick(self):
        input_faults(self.SCHEMA, {"amount": 5})
        assert _best(lambda: [input_faults(self.SCHEMA, {"amount": 5}) for _ in range(1_000)]) < 0.020


def _nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"not": schema}
    return schema


def _best(act: Any, times: int = 5) -> float:
    """The least of several durations in seconds: the rest is what else the machine did."""
    durations = []
    for _ in range(times):
        began = time.perf_counter()
        act()
        durations.append(time.perf_counter() - began)
    return min(durations)


def _chain(length: int) -> dict[str, Any]:
    steps = [
        call(f"s{i}", json=f"{{{{ steps.s{i - 1}.output.id }}}}" if i else None, retries="{{ input.n }}")
        for i in range(length)
    ]
    return workflow(*steps)


@pytest.mark.parametrize(("length", "seconds"), [(10, 0.005), (1_000, 0.3)])
def test_speed(length, seconds):
    document = _chain(length)
    assert isinstance(validate(document, REGISTRY), Validated)
    assert _best(lambda: validate(document, REGISTRY), 3) < seconds


def test_needs_are_inferred_wherever_expressions_stand():
    raw = {
        "id": "x",
        "node": "transform.filter",
        "with": {
            "items": ["{{ steps.a.output }}", {"deep": "x {{ steps.b.status }}"}],
            "where": "item > steps.c.output",
        },
        "when": "{{ steps.d.output }}",
        "foreach": "{{ steps.e.output }}",
    }
    document = workflow(*(step(name) for name in "abcde"), raw)
    result = validate(document, REGISTRY)
    assert isinstance(result, Validated)
    assert result.graph.nodes["x"].links.needs == frozenset("abcde")
    assert inferred_needs(result.spec.steps[-1], ("where",)) == frozenset("abcde")


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_are_valid_and_survive_the_wire(example):
    before = copy.deepcopy(example)
    validated = validate(example, REGISTRY)
    assert isinstance(validated, Validated)
    assert example == before
    validator_of(workflow_schema()).validate(example)
    again = validate(validated.spec.to_json(), REGISTRY)
    assert isinstance(again, Validated)
    assert again.spec == validated.spec
    program = compile_program(validated.spec, REGISTRY.resolve, {})
    assert program.graph == validated.graph


def test_the_workflow_schema_stands_alone():
    schema = workflow_schema()
    check_schema(schema)
    assert {"$schema", "$id", "title", "description", "examples"} <= schema.keys()
    validator = validator_of(schema)
    assert not validator.is_valid({"name": "w", "steps": []})
    assert not validator.is_valid(workflow(step("a", retires=1)))
    schema["properties"].clear()
    assert workflow_schema()["properties"]


_BITS = st.sampled_from(
    ["a", "b", "{{ steps.a.output }}", "{{ steps.b.output }}", "{{ 1 + }}", "http.request", "transform.map", "continue",
     "fail", "5s", "{{ item }}", "", 0, 3, True, None, 1.5]
)  # fmt: skip
_KEYS = st.sampled_from(
    ["name", "steps", "id", "node", "with", "needs", "when", "foreach", "retry", "on_error", "use", "outputs", "inputs",
     "policies", "value", "url", "on", "max_attempts", "timeout", "concurrency", "type", "properties", "effect"]
)  # fmt: skip
_JUNK = st.recursive(_BITS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4))
_NEARLY_STEP = st.fixed_dictionaries(
    {
        "id": st.sampled_from(["a", "b", "c"]) | _BITS,
        "node": st.sampled_from(["transform.map", "http.request"]) | _BITS,
    },
    optional=dict.fromkeys(("with", "needs", "when", "foreach", "retry", "on_error", "timeout", "junk"), _JUNK),
)


@settings(max_examples=300, deadline=None)
@given(
    st.fixed_dictionaries(
        {"name": st.just("w"), "steps": st.lists(_NEARLY_STEP | _JUNK, max_size=4)},
        optional={"outputs": _JUNK, "inputs": _JUNK, "policies": _JUNK},
    )
    | _JUNK
)
def test_whatever_comes_there_is_a_spec_or_a_fault(document):
    result = validate(document, REGISTRY)
    if isinstance(result, Validated):
        # What is valid compiles, with the very same graph.
        assert compile_program(result.spec, REGISTRY.resolve, {}).graph == result.graph
    else:
        assert result
        assert all(fault.path.startswith("$") and fault.code and len(fault.message) < 2_000 for fault in result)
