"""`ai.plan` over the real adapters and a server that speaks the real protocols."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import ErrorClass, StepError
from core.ids import StepId
from engine.expression.errors import ExpressionSyntaxError
from engine.expression.program import compile_expression
from engine.node.registry import NodeRegistry
from engine.node.sdk import Cel, NodeVersion, Secret, StepContext, node
from engine.nodes.ai import ai_nodes
from engine.nodes.ai_plan_rename import rename_params, rename_value
from engine.nodes.ai_price import Price
from engine.nodes.egress import EgressPolicy
from engine.patch import PatchResult, expansion, patched
from engine.program import compile_program
from engine.validation import Validated, validate
from infra.clock import SystemClock
from infra.llm.models import Models
from tests.engine.node.step_context import make_context
from tests.infra.llm.model_server import KEY, ModelServer

GOOD = {
    "steps": [
        {"id": "fetch", "node": "house.call", "with": {"url": "https://x/{{ input.id }}"}},
        {"id": "kept", "node": "house.filter", "with": {"items": "{{ steps.fetch.output.body }}", "where": "item > 1"}},
        {"id": "told", "node": "house.map", "with": {"value": 1}, "needs": ["kept"], "when": "{{ input.loud }}"},
    ],
    "summary": "Fetches and filters.",
}
ALLOWED = ["house.call", "house.filter", "house.map"]


@node("house.call", version="1.0.0")
async def house_call(url: str, token: Annotated[str | None, Secret] = None) -> dict[str, Any]:
    """Call the house."""
    return {}


@node("house.map", version="1.0.0", effect="pure", lane="inline")
def house_map(value: Any) -> Any:
    return value


@node("house.filter", version="1.0.0", effect="pure", lane="inline")
def house_filter(items: list[Any], where: Annotated[str, Cel]) -> Any:
    return items


class Answers(ModelServer):
    """Gives one answer after the other; the last one again and again."""

    answers: list[Any]

    @property  # type: ignore[override]
    def text(self) -> str:
        answer = self.answers[min(len(self.calls), len(self.answers)) - 1]
        return answer if isinstance(answer, str) else json.dumps(answer)

    @text.setter
    def text(self, _: str) -> None:
        """What the base class begins with."""


@pytest.fixture
async def server() -> AsyncIterator[Answers]:
    server = Answers()
    server.answers = [GOOD]
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    yield server
    listening.close()
    server.close()
    await listening.wait_closed()
    await asyncio.sleep(0)


@pytest.fixture
async def registry() -> AsyncIterator[NodeRegistry]:
    registry = NodeRegistry()
    models = Models(EgressPolicy(["127.0.0.0/8"]), SystemClock())
    for one in [house_call, house_map, house_filter, *ai_nodes(models, {"house-model": Price(1, 2)}, registry)]:
        registry.register(one)
    yield registry
    await registry.aclose()


def planner(registry: NodeRegistry) -> NodeVersion:
    return registry.resolve("ai.plan")


async def make_plan(
    registry: NodeRegistry, server: ModelServer, at: StepContext | None = None, **params: Any
) -> tuple[dict[str, Any], StepContext]:
    at = at or make_context(step_id=StepId("plan"))
    given_ = {
        "provider": "openai", "model": "house-model", "base_url": f"{server.url}/v1", "api_key": KEY,
        "goal": "Do it.", "allowed": ALLOWED, **params,
    }  # fmt: skip
    output = await planner(registry)(given_, at)
    assert jsonschema_rs.is_valid(planner(registry).manifest.output_schema, output)
    return output, at


async def refused(registry: NodeRegistry, server: ModelServer, **params: Any) -> StepError:
    with pytest.raises(StepError) as raised:
        await make_plan(registry, server, **params)
    return raised.value


def test_the_contract(registry: NodeRegistry) -> None:
    found = planner(registry)
    assert found.expands
    assert not house_map.expands
    assert found.manifest.secret_fields == ("api_key",)
    assert found.manifest.input_schema["properties"]["review"]["default"] is True
    assert sorted(found.manifest.input_schema["required"]) == ["allowed", "goal", "model", "provider"]


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
async def test_a_good_plan(registry: NodeRegistry, server: Answers, provider: str) -> None:
    if provider == "anthropic":  # takes no objects with members of any name, so parameters come as text
        server.answers = [{**GOOD, "steps": [{**one, "with": json.dumps(one["with"])} for one in GOOD["steps"]]}]
    output, context = await make_plan(registry, server, provider=provider, context={"orders": [1, 2]})
    assert output["plan"] == GOOD
    assert (output["review"], output["attempts"]) == (True, 1)
    fetch, kept, told = (one["step"] for one in output["operations"])
    assert fetch == {
        "id": "plan__fetch",
        "node": "house.call",
        "with": {"url": "https://x/{{ input.id }}"},
        "needs": ["plan"],
    }
    assert kept["with"] == {"items": "{{ steps.plan__fetch.output.body }}", "where": "item > 1"}
    assert kept["needs"] == ["plan__fetch"]
    assert (told["needs"], told["when"]) == (["plan__kept"], "{{ input.loud }}")
    assert context.reported.tokens_in == 30
    assert context.reported.cost_usd == pytest.approx((30 * 1 + 12 * 2) / 1_000_000)
    assert set(context.reported.metrics) == {"plan_attempts", "plan_steps", "price_known"}
    told_to_model = json.dumps(server.body, ensure_ascii=False)
    assert "Call the house" in told_to_model
    assert r"\"orders\":[1,2]" in told_to_model
    assert KEY not in told_to_model


async def test_the_operations_fit_into_the_run(registry: NodeRegistry, server: Answers) -> None:
    output, _ = await make_plan(registry, server)
    document = {
        "name": "w",
        "steps": [
            {
                "id": "plan",
                "node": "ai.plan",
                "with": {"goal": "x", "provider": "openai", "model": "m", "allowed": ALLOWED},
            },
            {"id": "after", "node": "house.map", "with": {"value": "{{ steps.plan.output.plan.summary }}"}},
        ],
    }
    checked = validate(document, registry)
    assert isinstance(checked, Validated), checked
    graph = compile_program(checked.spec, registry.resolve, {}).graph
    result = patched(document, expansion(graph, "plan", output["operations"]), ["plan"], registry)
    assert isinstance(result, PatchResult), result
    assert result.added == ("plan__fetch", "plan__kept", "plan__told")
    after = next(one for one in result.spec.steps if one.id == "after")
    assert after.needs == ("plan__told",)


async def test_a_plan_may_refer_to_steps_that_it_is_told_of(registry: NodeRegistry, server: Answers) -> None:
    steps = [{"id": "a", "node": "house.map", "with": {"value": "{{ steps.orders.output }}"}, "needs": ["orders"]}]
    server.answers = [{"steps": steps, "summary": ""}]
    output, _ = await make_plan(registry, server, uses=["orders"])
    made = output["operations"][0]["step"]
    assert made["with"] == {"value": "{{ steps.orders.output }}"}
    assert made["needs"] == ["orders", "plan"]
    error = await refused(registry, server)
    assert "orders" in error.message


async def test_a_planning_step_with_a_hyphen(registry: NodeRegistry, server: Answers) -> None:
    context = make_context(step_id=StepId("my-plan"))
    output, _ = await make_plan(registry, server, context)
    assert output["operations"][1]["step"]["with"]["items"] == '{{ steps["my-plan__fetch"].output.body }}'


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("no JSON", "not valid JSON"),
        ([], "$"),
        ({"steps": [], "summary": ""}, "$.steps"),
        ({"steps": GOOD["steps"]}, "summary"),
        ({"steps": [{"id": "a", "node": "house.burn", "with": {}}], "summary": ""}, "house.burn"),
        ({"steps": [{"id": "a", "node": "ai.chat", "with": {}}], "summary": ""}, "ai.chat"),
        ({"steps": [{"id": "a-b", "node": "house.map", "with": {"value": 1}}], "summary": ""}, "$.steps[0].id"),
        ({"steps": [{"id": "a", "node": "house.map", "with": "{"}], "summary": ""}, "$.steps[0].with"),
        ({"steps": [{"id": "a", "node": "house.map", "with": {}}], "summary": ""}, "`value` is missing"),
        ({"steps": [GOOD["steps"][2]], "summary": ""}, "no step `kept`"),
        ({"steps": [GOOD["steps"][0], GOOD["steps"][0]], "summary": ""}, "taken"),
        ({"steps": [{**GOOD["steps"][0], "foreach": [1]}], "summary": ""}, "foreach"),
        (
            {"steps": [{"id": "a", "node": "house.map", "with": {"value": "{{ steps.a.output }}"}}], "summary": ""},
            "waits for itself",
        ),
        (
            {"steps": [{"id": "a", "node": "house.map", "with": {"value": "{{ input.x.map(steps, steps.a) }}"}}],
             "summary": ""},
            "`steps`",
        ),
        (
            {"steps": [{"id": "a", "node": "house.call", "with": {"url": "u", "token": "{{ secrets.ADMIN }}"}}],
             "summary": ""},
            "may not be used",
        ),
        (
            {"steps": [{"id": "a", "node": "house.call", "with": {"url": "{{ secrets.TOKEN }}"}}], "summary": ""},
            "declares for secrets",
        ),
    ],
)  # fmt: skip
async def test_an_invalid_plan_goes_back_and_comes_better(
    registry: NodeRegistry, server: Answers, broken: Any, said: str
) -> None:
    server.answers = [broken, GOOD]
    output, context = await make_plan(registry, server, secrets=["TOKEN"])
    assert (output["attempts"], output["plan"]) == (2, GOOD)
    assert context.reported.tokens_out == 24  # both answers were paid for
    back = server.body["messages"]
    assert [one["role"] for one in back] == ["system", "user", "assistant", "user"]
    assert said in back[-1]["content"]


async def test_each_question_has_a_key_of_its_own(registry: NodeRegistry, server: Answers) -> None:
    await make_plan(registry, server)
    first = server.headers["idempotency-key"]
    server.calls.clear()
    server.answers = ["no", GOOD]
    await make_plan(registry, server)
    assert server.headers["idempotency-key"] != first


async def test_a_plan_that_never_becomes_valid(registry: NodeRegistry, server: Answers) -> None:
    server.answers = [{"steps": [{"id": "a", "node": "house.burn", "with": {}}], "summary": ""}]
    context = make_context(step_id=StepId("plan"))
    with pytest.raises(StepError, match="no valid plan in 3 attempts") as raised:
        await make_plan(registry, server, context)
    assert raised.value.error_class is ErrorClass.DECODE
    assert raised.value.detail["attempts"] == len(server.calls) == 3
    assert "node" in raised.value.message
    assert context.reported.tokens_in == 90
    assert context.reported.metrics["plan_attempts"] == 3


async def test_a_secret_that_is_allowed(registry: NodeRegistry, server: Answers) -> None:
    steps = [{"id": "a", "node": "house.call", "with": {"url": "u", "token": "Bearer {{ secrets.TOKEN }}"}}]
    server.answers = [{"steps": steps, "summary": ""}]
    output, _ = await make_plan(registry, server, secrets=["TOKEN"])
    assert output["operations"][0]["step"]["with"]["token"] == "Bearer {{ secrets.TOKEN }}"
    assert "may not be used" in (await refused(registry, server)).message


@pytest.mark.parametrize(("mode", "said"), [("refusal", "refuses"), ("truncated", "was cut")])
async def test_an_answer_that_is_none(registry: NodeRegistry, server: Answers, mode: str, said: str) -> None:
    server.mode = mode
    error = await refused(registry, server, max_attempts=1)
    assert error.error_class is ErrorClass.DECODE
    assert said in error.message


async def test_failures_of_the_provider_are_those_of_the_step(registry: NodeRegistry, server: Answers) -> None:
    server.mode = "limited"
    error = await refused(registry, server)
    assert (error.error_class, error.retry_after, len(server.calls)) == (ErrorClass.RATE_LIMITED, 7, 1)


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"allowed": []}, "allowed"),
        ({"allowed": ["nobody.knows"]}, "allowed"),
        ({"allowed": ["house.map@9.0.0"]}, "allowed"),
        ({"allowed": ["house.map", "ai.plan"]}, "allowed"),
        ({"allowed": ["house.map"] * 51}, "allowed"),
        ({"max_steps": 51}, "max_steps"),
        ({"max_attempts": 4}, "max_attempts"),
        ({"goal": ""}, "goal"),
        ({"context": "x" * 1024 * 1024}, "context"),
        ({"extra": {"model": "other"}}, "extra"),
    ],
)
async def test_what_cannot_be_asked(
    registry: NodeRegistry, server: Answers, params: dict[str, Any], field: str
) -> None:
    error = await refused(registry, server, **params)
    assert error.error_class is ErrorClass.INVALID_INPUT
    assert error.detail["field"] == field
    assert not server.calls


@pytest.mark.parametrize("changes", [{"item": 0}, {"step_id": StepId("p" * 31)}])
async def test_places_where_no_plan_can_be_made(
    registry: NodeRegistry, server: Answers, changes: dict[str, Any]
) -> None:
    with pytest.raises(StepError) as raised:
        await make_plan(registry, server, make_context(**{"step_id": StepId("plan"), **changes}))
    assert raised.value.error_class is ErrorClass.INVALID_INPUT
    assert not server.calls


async def test_the_number_of_steps_is_bounded(registry: NodeRegistry, server: Answers) -> None:
    assert "$.steps" in (await refused(registry, server, max_steps=2)).message


class TestNames:
    @pytest.mark.parametrize(
        ("value", "renamed"),
        [
            ("{{ steps.a.output.steps.a }}", "{{ steps.p__a.output.steps.a }}"),
            ('{{ steps["a"].output + steps . b.output }}', '{{ steps.p__a.output + steps["p-b"].output }}'),
            ("{{ 'steps.a' + input.steps.a }}", "{{ 'steps.a' + input.steps.a }}"),
            (r"\{{ steps.a }} {{ steps.a.status }}", r"\{{ steps.a }} {{ steps.p__a.status }}"),
            ("steps.a {{ steps.other.output }}", "steps.a {{ steps.other.output }}"),
            ("{{ {'steps': [steps.a.output][0]} }}", "{{ {'steps': [steps.p__a.output][0]} }}"),
            ({"{{ steps.a }}": ["{{steps.a.output}}", 1, None]}, {"{{ steps.a }}": ["{{steps.p__a.output}}", 1, None]}),
        ],
    )
    def test_references_get_their_new_names(self, value: Any, renamed: Any) -> None:
        assert rename_value(value, {"a": "p__a", "b": "p-b"}) == renamed

    def test_raw_expressions(self) -> None:
        given_ = {"where": "item == steps.a.output", "text": "steps.a"}
        assert rename_params(given_, {"a": "p"}, ["where"]) == {"where": "item == steps.p.output", "text": "steps.a"}

    @pytest.mark.parametrize("source", ["{{ input.map(steps, steps.a) }}", "{{ steps }}", "{{ steps[1] }}", "{{ a"])
    def test_what_cannot_be_renamed(self, source: str) -> None:
        with pytest.raises(ExpressionSyntaxError):
            rename_value(source, {"a": "p"})

    @settings(max_examples=200, deadline=None)
    @given(
        st.lists(
            st.sampled_from(
                ["steps.a.output", 'steps["b"].status', "input.steps.a", "'steps.a'", "size(steps.c.output)", "1"]
            ),
            min_size=1,
            max_size=6,
        )
    )
    def test_only_references_change(self, parts: list[str]) -> None:
        names = {"a": "p__a", "b": "p__b"}
        source = " + ".join(parts)
        renamed = rename_value(f"x {{{{ {source} }}}}", names)[5:-3]
        before = compile_expression(source).analysis.references
        after = compile_expression(renamed).analysis.references
        expected = [
            (one.root, (names.get(one.path[0], one.path[0]), *one.path[1:]) if one.root == "steps" else one.path)
            for one in before
        ]
        assert [(one.root, one.path) for one in after] == expected
