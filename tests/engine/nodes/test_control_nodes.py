import timeit
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import jsonschema_rs
import pytest

from core.errors import ErrorClass, StepError
from engine.expression.evaluator import Evaluator
from engine.node.registry import NodeRegistry
from engine.node.sdk import Lane, NodeVersion
from engine.nodes import flow, transform
from engine.nodes.builtin import builtin_nodes
from engine.nodes.egress import EgressPolicy
from tests.engine.node.step_context import make_context


@pytest.fixture(scope="module")
async def evaluator() -> AsyncIterator[Evaluator]:
    evaluator = Evaluator()
    yield evaluator
    await evaluator.aclose()


def call(node: NodeVersion, **params: Any) -> Any:
    output = node.call(params, make_context())
    assert jsonschema_rs.is_valid(node.manifest.output_schema, output)
    return output


def test_map_gives_its_value() -> None:
    value = {"a": [1, {"b": None}]}
    assert call(transform.map_value, value=value) == value
    assert call(transform.map_value, value=None) is None
    with pytest.raises(StepError, match="`value`"):
        call(transform.map_value)


async def test_filter_keeps_what_the_condition_holds_for(evaluator: Evaluator) -> None:
    context = make_context(evaluator=evaluator)
    items = [{"n": 1, "big": 2**60}, {"n": 2.0}, {"n": 3, "tags": ["x"]}]
    output = await transform.filter_items({"items": items, "where": "item.n >= 2 // a comment"}, context)
    assert output == {"items": items[1:], "count": 2}
    assert output["items"][0] is items[1]
    output = await transform.filter_items({"items": items, "where": "index != 1 && item.n > 0"}, context)
    assert output["items"] == [items[0], items[2]]
    where = 'has(item.tags) && item.tags.exists(tag, tag == "x")'
    assert (await transform.filter_items({"items": items, "where": where}, context))["count"] == 1
    assert await transform.filter_items({"items": [], "where": "true"}, context) == {"items": [], "count": 0}


@pytest.mark.parametrize("where", ["item.n >", "item.n + 1", "item.missing", "1)", "item.n) || (item.n"])
async def test_a_condition_that_is_none_says_so(evaluator: Evaluator, where: str) -> None:
    with pytest.raises(StepError) as raised:
        await transform.filter_items({"items": [{"n": 1}], "where": where}, make_context(evaluator=evaluator))
    assert raised.value.error_class is ErrorClass.EXPRESSION


@pytest.mark.parametrize("where", ["item % 2 == 1", "index % 2 == 1"])
async def test_long_lists_are_filtered_in_pieces(evaluator: Evaluator, where: str) -> None:
    items = list(range(12_345))
    output = await transform.filter_items({"items": items, "where": where}, make_context(evaluator=evaluator))
    assert output["items"] == items[1::2]


async def test_large_elements_are_filtered_in_pieces(evaluator: Evaluator) -> None:
    items = [{"n": n, "text": "x" * 100_000} for n in range(60)]
    params = {"items": items, "where": "item.text.size() > 10 && item.n < 50"}
    assert (await transform.filter_items(params, make_context(evaluator=evaluator)))["count"] == 50


@pytest.mark.parametrize("value", [True, False])
def test_if_gives_the_condition(value: bool) -> None:
    assert call(flow.if_, condition=value) == {"result": value}


@pytest.mark.parametrize("value", ["true", 1, 0, None, []])
def test_if_takes_nothing_but_true_and_false(value: Any) -> None:
    with pytest.raises(StepError, match=r"`condition`.*boolean"):
        call(flow.if_, condition=value)


@pytest.mark.parametrize(
    ("params", "case"),
    [
        ({"value": "b", "cases": ["a", "b"]}, "b"),
        ({"value": 1, "cases": [True, 1.0]}, 1.0),
        ({"value": "z", "cases": ["a"], "default": "other"}, "other"),
        ({"value": "z", "cases": ["a"]}, None),
        ({"value": 5, "cases": {"low": 1, "high": 5}}, "high"),
        ({"value": "FR", "cases": {"eu": ["DE", "FR"], "us": ["US"]}}, "eu"),
        ({"value": True, "cases": {"one": 1, "yes": True}}, "yes"),
    ],
)
def test_switch_finds_the_case(params: dict[str, Any], case: Any) -> None:
    found = call(flow.switch, **params)["case"]
    assert found == case
    assert type(found) is type(case)


def test_merge_gives_what_its_parents_gave() -> None:
    assert flow.merge.joins
    assert flow.merge.manifest.input_schema["properties"].keys() == {"mode", "count"}
    assert "required" not in flow.merge.manifest.input_schema
    assert call(flow.merge, inputs={"a": 1, "b": {"c": 2}}) == {"a": 1, "b": {"c": 2}}
    assert call(flow.merge, inputs={}, mode="count", count=2) == {}


@pytest.mark.parametrize(("seconds", "expected"), [(1.5, 1.5), ("5m", 300), ("50ms", 0.05), (0, 0)])
def test_delay_says_when_to_wake(seconds: Any, expected: float) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    assert flow.delay.wake_at({"seconds": seconds}, start) == start + timedelta(seconds=expected)


@pytest.mark.parametrize("seconds", [-1, "soon", True, None])
def test_delay_refuses_what_is_no_duration(seconds: Any) -> None:
    with pytest.raises(StepError, match="`seconds`"):
        flow.delay.wake_at({"seconds": seconds}, datetime(2026, 1, 1, tzinfo=UTC))


async def test_the_built_in_nodes_register_and_close() -> None:
    registry = NodeRegistry()
    for version in builtin_nodes(EgressPolicy()):
        registry.register(version)
        jsonschema_rs.validator_for(version.manifest.input_schema)
        assert version.manifest.description
    assert registry.names() == [
        "flow.delay",
        "flow.end",
        "flow.foreach",
        "flow.if",
        "flow.loop",
        "flow.merge",
        "flow.parallel",
        "flow.subworkflow",
        "flow.switch",
        "flow.wait",
        "http.request",
        "transform.filter",
        "transform.map",
        "vars.set",
    ]
    assert registry.resolve("flow.delay").lane is Lane.TIMER
    await registry.aclose()


def test_an_inline_call_is_cheap() -> None:
    context = make_context()
    best = min(timeit.repeat(lambda: flow.if_.call({"condition": True}, context), number=2_000, repeat=5)) / 2_000
    assert best < 20e-6  # measured: 1.5 µs; the limit leaves room for a busy machine
