"""`ai.chat` and `ai.embed` over the real adapters and a server that speaks the real protocols."""

import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import jsonschema_rs
import pytest

from core.errors import ErrorClass, StepError
from core.manifest import Effect
from engine.node.sdk import Lane, NodeVersion, StepContext
from engine.nodes.ai import ai_nodes
from engine.nodes.ai_price import Price
from engine.nodes.egress import EgressPolicy
from infra.clock import SystemClock
from infra.llm.models import Models
from tests.docs.page import ROOT
from tests.engine.node.step_context import make_context
from tests.infra.llm.model_server import KEY, TEXT, ModelServer, model_server

PROVIDERS = ["openai", "anthropic"]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
}


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with model_server() as server:
        yield server


@pytest.fixture
async def nodes() -> AsyncIterator[dict[str, NodeVersion]]:
    models = Models(EgressPolicy(["127.0.0.0/8"]), SystemClock())
    nodes = ai_nodes(models, {"house-model": Price(1, 2), "gpt-5.5": Price(7, 7)})
    yield {one.manifest.name: one for one in nodes}
    for one in nodes:
        await one.aclose()


async def chat(
    nodes: dict[str, NodeVersion],
    server: ModelServer,
    provider: str,
    context: StepContext | None = None,
    **params: Any,
) -> tuple[dict[str, Any], StepContext]:
    context = context or make_context()
    given = {"provider": provider, "model": "house-model", "base_url": f"{server.url}/v1", "api_key": KEY, **params}
    if "messages" not in params:
        given.setdefault("prompt", "Hello")
    output = await nodes["ai.chat"](given, context)
    assert jsonschema_rs.is_valid(nodes["ai.chat"].manifest.output_schema, output)
    return output, context


def test_the_contract() -> None:
    found = {one.manifest.name: one for one in ai_nodes(Models(EgressPolicy(), SystemClock()))}
    assert sorted(found) == ["ai.chat", "ai.embed"]
    for one in found.values():
        assert one.lane is Lane.ASYNC
        assert one.manifest.effect is Effect.IDEMPOTENT
        assert one.manifest.category == "ai"
        assert one.manifest.secret_fields == ("api_key",)
    manifest = found["ai.chat"].manifest
    assert (manifest.tunables["temperature"].low, manifest.tunables["temperature"].high) == (0, 2)
    assert set(manifest.tunables) == {"temperature", "max_tokens", "top_p"}


def test_nothing_is_loaded_before_it_is_needed() -> None:
    script = (
        "import sys, engine.nodes.ai\n"
        "assert not [name for name in sys.modules if name.split('.')[0] in ('infra', 'openai', 'anthropic')]\n"
        "from infra.llm.models import Models\n"
        "from infra.clock import SystemClock\n"
        "from engine.nodes.egress import EgressPolicy\n"
        "engine.nodes.ai.ai_nodes(Models(EgressPolicy(), SystemClock()))\n"
        "loaded = {name.split('.')[0] for name in sys.modules}\n"
        "assert not loaded & {'openai', 'anthropic', 'httpx2'}, loaded\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_and_what_is_on_record(
    nodes: dict[str, NodeVersion], server: ModelServer, provider: str, stream: bool
) -> None:
    output, context = await chat(nodes, server, provider, system="Be brief.", stream=stream)
    assert output == {
        "text": TEXT,
        "model": "house-model-2026-01-01",
        "finish_reason": "stop",
        "usage": {"input_tokens": 30, "output_tokens": 12, "cached_tokens": 20},
    }
    reported = context.reported
    assert (reported.tokens_in, reported.tokens_out) == (30, 12)
    assert reported.cost_usd == pytest.approx((30 * 1 + 12 * 2) / 1_000_000)
    metrics = reported.metrics
    assert metrics["price_known"] == 1
    assert metrics["input_chars"] == len("Be brief.Hello")
    assert metrics["output_chars"] == len(TEXT)
    assert metrics["cached_tokens"] == 20
    assert metrics["tokens_per_second"] > 0
    assert ("ttft_ms" in metrics) == stream
    assert set(metrics) <= set(nodes["ai.chat"].manifest.metrics)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_prices(nodes: dict[str, NodeVersion], server: ModelServer, provider: str) -> None:
    price = {"input": 10, "output": 100, "cached": 1}
    _, context = await chat(nodes, server, provider, price=price)
    assert context.reported.cost_usd == pytest.approx((10 * 10 + 20 * 1 + 12 * 100) / 1_000_000)
    _, context = await chat(nodes, server, provider, model="gpt-5.5")
    assert context.reported.cost_usd == pytest.approx(42 * 7 / 1_000_000)
    _, context = await chat(nodes, server, provider, model="nobody-knows")
    assert (context.reported.cost_usd, context.reported.metrics["price_known"]) == (0, 0)
    assert context.reported.tokens_in == 30


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("stream", [False, True])
async def test_structured_output(
    nodes: dict[str, NodeVersion], server: ModelServer, provider: str, stream: bool
) -> None:
    server.text = '{"name": "Ada", "age": 36}'
    output, _ = await chat(nodes, server, provider, json_schema=SCHEMA, stream=stream)
    assert output["json"] == {"name": "Ada", "age": 36}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("mode", "text", "sentence"),
    [
        ("ok", '{"name": "Ada", "age": -1}', "breaks the schema"),
        ("ok", '{"name": "Ada"}', "`age` is missing"),
        ("ok", "Sure! Here it is.", "is not JSON"),
        ("truncated", '{"name": "Ad', "raise `max_tokens`"),
        ("refusal", "", "refuses"),
    ],
)
async def test_an_answer_that_breaks_the_schema(
    nodes: dict[str, NodeVersion], server: ModelServer, provider: str, mode: str, text: str, sentence: str
) -> None:
    server.mode, server.text = mode, text
    context = make_context()
    with pytest.raises(StepError, match=sentence) as raised:
        await chat(nodes, server, provider, context, json_schema=SCHEMA)
    assert raised.value.error_class is ErrorClass.DECODE
    assert context.reported.tokens_out == 12  # it was paid for
    assert context.reported.cost_usd > 0


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_tools(nodes: dict[str, NodeVersion], server: ModelServer, provider: str) -> None:
    tools = [{"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}]
    output, _ = await chat(nodes, server, provider, tools=tools, json_schema=SCHEMA)
    assert output["tool_calls"] == [{"id": "call_1", "name": "weather", "arguments": {"city": "Köln", "days": 2}}]
    assert output["finish_reason"] == "tool_calls"
    assert output["json"] is None


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_failure_says_what_a_retry_needs(
    nodes: dict[str, NodeVersion], server: ModelServer, provider: str
) -> None:
    server.mode = "limited"
    with pytest.raises(StepError) as raised:
        await chat(nodes, server, provider)
    assert (raised.value.error_class, raised.value.retry_after) == (ErrorClass.RATE_LIMITED, 7)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"prompt": "a", "messages": [{"role": "user", "content": "b"}]}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"messages": [{"role": "system", "content": "b"}]}, "messages"),
        ({"messages": [{"role": "robot", "content": "b"}]}, "messages.0.role"),
        ({"json_schema": {"type": "thing"}}, "json_schema"),
        ({"extra": {"model": "other"}}, "extra"),
        ({"base_url": "ftp://models.example"}, "base_url"),
        ({"base_url": "https://user:word@models.example"}, "base_url"),
        ({"base_url": "https://models.example/?key=1"}, "base_url"),
        ({"base_url": "http://[::1"}, "base_url"),
        ({"api_key": "line\nbreak"}, "api_key"),
        ({"temperature": 2.1}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"price": {"input": -1, "output": 1}}, "price.input"),
    ],
)
async def test_what_cannot_be_asked(
    nodes: dict[str, NodeVersion], server: ModelServer, provider: str, params: dict[str, Any], field: str
) -> None:
    with pytest.raises(StepError) as raised:
        await chat(nodes, server, provider, **params)
    assert raised.value.error_class is ErrorClass.INVALID_INPUT
    assert raised.value.detail["field"] == field
    assert not server.calls


async def test_temperatures_have_the_providers_ranges(nodes: dict[str, NodeVersion], server: ModelServer) -> None:
    await chat(nodes, server, "openai", temperature=1.5)
    with pytest.raises(StepError) as raised:
        await chat(nodes, server, "anthropic", temperature=1.5)
    assert raised.value.detail["field"] == "temperature"


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_private_addresses_need_leave(server: ModelServer, provider: str) -> None:
    nodes = {one.manifest.name: one for one in ai_nodes(Models(EgressPolicy(), SystemClock()))}
    with pytest.raises(StepError) as raised:
        await chat(nodes, server, provider)
    assert raised.value.error_class is ErrorClass.POLICY
    assert server.connections == 0
    await nodes["ai.chat"].aclose()


async def test_vectors(nodes: dict[str, NodeVersion], server: ModelServer) -> None:
    context = make_context()
    params = {
        "model": "text-embedding-3-large",
        "texts": ["a", "bb"],
        "base_url": f"{server.url}/v1",
        "api_key": KEY,
    }
    output = await nodes["ai.embed"](params, context)
    assert output["vectors"] == [[1.0, 0.5, -1e-9], [2.0, 0.5, -1e-9]]
    assert output["usage"] == {"input_tokens": 11, "output_tokens": 0, "cached_tokens": 0}
    assert context.reported.cost_usd == pytest.approx(11 * 0.13 / 1_000_000)
    assert context.reported.metrics == {"input_chars": 3, "price_known": 1}
    for texts in ([], [""], ["x"] * 2_049):
        with pytest.raises(StepError) as raised:
            await nodes["ai.embed"]({**params, "texts": texts}, make_context())
        assert raised.value.error_class is ErrorClass.INVALID_INPUT
