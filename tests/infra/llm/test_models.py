"""Both providers, over real HTTP: the same questions, the same answers, the same failures."""

import asyncio
import os
from dataclasses import replace
from typing import Any

import pytest

from core.errors import ErrorClass, StepError
from core.llm import ChatRequest, EmbedRequest, Endpoint, FinishReason, Provider, TokenUsage, Tool, ToolCall
from engine.nodes.egress import EgressPolicy
from infra.clock import SystemClock
from infra.llm.models import Models
from tests.conftest import ManualClock
from tests.infra.llm.model_server import KEY, TEXT, ModelServer

pytestmark = pytest.mark.parametrize("provider", list(Provider))

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "minLength": 1}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name"],
}
HELLO = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"})


def asked(server: ModelServer, provider: Provider, **changes: Any) -> ChatRequest:
    endpoint = Endpoint(f"{server.url}/v1", KEY, 5.0, "run:step")
    return replace(ChatRequest(provider, endpoint, "model-x", HELLO), **changes)


async def failed(models: Models, request: ChatRequest) -> StepError:
    with pytest.raises(StepError) as raised:
        await models.chat(request)
    error = raised.value
    assert KEY not in f"{error.message}{error.detail}"
    assert "sk-test" not in error.message
    return error


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_is_the_same_streamed_or_not(
    models: Models, server: ModelServer, provider: Provider, stream: bool
) -> None:
    response = await models.chat(asked(server, provider, stream=stream))
    assert response.text == TEXT
    assert response.model == "model-x-2026-01-01"
    assert response.finish_reason is FinishReason.STOP
    written = 4 if provider is Provider.ANTHROPIC else 0
    assert response.usage == TokenUsage(30, 12, 20, written)
    assert response.tool_calls == ()
    assert (response.first_token_s is not None) == stream


async def test_what_is_sent(models: Models, server: ModelServer, provider: Provider) -> None:
    request = asked(
        server,
        provider,
        temperature=0.5,
        top_p=0.9,
        max_tokens=100,
        stop=("END",),
        json_schema=SCHEMA,
        extra={"metadata": {"a": "b"}},
    )
    server.text = '{"name": "Ada", "age": 36}'
    await models.chat(request)
    body = server.body
    assert (body["model"], body["temperature"], body["top_p"], body["metadata"]) == ("model-x", 0.5, 0.9, {"a": "b"})
    assert server.headers["idempotency-key"] == "run:step"
    assert server.headers["accept-encoding"] == "identity"
    assert not [name for name in server.headers if name.startswith("x-stainless")]
    if provider is Provider.OPENAI:
        assert server.headers["authorization"] == f"Bearer {KEY}"
        assert body["messages"] == list(HELLO)
        assert (body["max_completion_tokens"], body["stop"]) == (100, ["END"])
        shape = body["response_format"]["json_schema"]
        assert (body["response_format"]["type"], shape["strict"]) == ("json_schema", True)
        assert shape["schema"] == {**SCHEMA, "additionalProperties": False, "required": ["name", "age"]}
    else:
        assert server.headers["x-api-key"] == KEY
        assert "authorization" not in server.headers
        assert body["system"] == [{"type": "text", "text": "Be brief."}]
        assert body["messages"] == [HELLO[1]]
        assert (body["max_tokens"], body["stop_sequences"]) == (100, ["END"])
        shape = body["output_config"]["format"]
        assert shape["type"] == "json_schema"
        assert shape["schema"]["additionalProperties"] is False
        assert "minimum" not in shape["schema"]["properties"]["age"]
    assert "minimum" in SCHEMA["properties"]["age"]  # type: ignore[index]


async def test_what_is_not_given_is_not_sent(models: Models, server: ModelServer, provider: Provider) -> None:
    await models.chat(asked(server, provider))
    needed = {"model", "messages"} if provider is Provider.OPENAI else {"model", "messages", "max_tokens", "system"}
    assert set(server.body) == needed


@pytest.mark.parametrize("stream", [False, True])
async def test_tool_calls(models: Models, server: ModelServer, provider: Provider, stream: bool) -> None:
    tool = Tool("weather", "What the weather will be.", {"type": "object", "properties": {"city": {"type": "string"}}})
    response = await models.chat(asked(server, provider, tools=(tool,), stream=stream))
    assert response.tool_calls == (ToolCall("call_1", "weather", {"city": "Köln", "days": 2}),)
    assert response.finish_reason is FinishReason.TOOL_CALLS
    assert response.text == ""


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("mode", "finish"), [("truncated", FinishReason.LENGTH), ("refusal", FinishReason.CONTENT_FILTER)]
)
async def test_finish_reasons(
    models: Models, server: ModelServer, provider: Provider, mode: str, finish: FinishReason, stream: bool
) -> None:
    server.mode = mode
    response = await models.chat(asked(server, provider, stream=stream))
    assert response.finish_reason is finish
    assert response.text == ("I will not." if mode == "refusal" else TEXT)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("mode", "error_class", "status"),
    [
        ("unauthorized", ErrorClass.AUTH, 401),
        ("forbidden", ErrorClass.AUTH, 403),
        ("limited", ErrorClass.RATE_LIMITED, 429),
        ("bad_request", ErrorClass.UPSTREAM_4XX, 400),
        ("not_found", ErrorClass.UPSTREAM_4XX, 404),
        ("unprocessable", ErrorClass.UPSTREAM_4XX, 422),
        ("redirect", ErrorClass.UPSTREAM_4XX, 307),
        ("failing", ErrorClass.UPSTREAM_5XX, 500),
        ("bad_gateway", ErrorClass.UPSTREAM_5XX, 502),
        ("unavailable", ErrorClass.UPSTREAM_5XX, 503),
        ("overloaded", ErrorClass.UPSTREAM_5XX, 529),
        ("error_as_answer", ErrorClass.UPSTREAM_5XX, 529),
    ],
)
async def test_statuses(
    models: Models,
    server: ModelServer,
    provider: Provider,
    mode: str,
    error_class: ErrorClass,
    status: int,
    stream: bool,
) -> None:
    server.mode = mode
    error = await failed(models, asked(server, provider, stream=stream))
    assert error.error_class is error_class
    assert error.detail["status"] == status
    assert len(server.calls) == 1  # the engine repeats calls, the library does not


async def test_when_to_ask_again(server: ModelServer, provider: Provider) -> None:
    models = Models(EgressPolicy(["127.0.0.0/8"]), ManualClock())
    for mode, seconds in (
        ("limited", 7.0),
        ("limited_by_date", 86_400.0),
        ("limited_by_window", 90.0),
        ("unavailable", 1.5),
        ("failing", None),
    ):
        server.mode = mode
        assert (await failed(models, asked(server, provider))).retry_after == seconds, mode
    await models.aclose()


async def test_a_context_that_is_too_long_says_so(models: Models, server: ModelServer, provider: Provider) -> None:
    server.mode = "too_long"
    error = await failed(models, asked(server, provider))
    assert error.error_class is ErrorClass.UPSTREAM_4XX
    assert error.detail["reason"] == "context_length_exceeded"


@pytest.mark.parametrize("mode", ["cut", "cut_without_trace"])
async def test_a_cut_stream_is_a_network_failure(
    models: Models, server: ModelServer, provider: Provider, mode: str
) -> None:
    server.mode = mode
    assert (await failed(models, asked(server, provider, stream=True))).error_class is ErrorClass.NETWORK


async def test_an_error_in_the_stream_keeps_its_class(models: Models, server: ModelServer, provider: Provider) -> None:
    server.mode = "error_in_stream"
    error = await failed(models, asked(server, provider, stream=True))
    assert (error.error_class, error.detail["status"]) == (ErrorClass.UPSTREAM_5XX, 529)


@pytest.mark.parametrize(
    ("mode", "stream"),
    [
        ("garbage", False),
        ("garbage", True),
        ("page", False),
        ("page", True),
        ("empty", False),
        ("compressed", False),
        ("miscounted", False),
    ],
)
async def test_what_is_no_answer_is_a_decode_failure(
    models: Models, server: ModelServer, provider: Provider, mode: str, stream: bool
) -> None:
    server.mode = mode
    assert (await failed(models, asked(server, provider, stream=stream))).error_class is ErrorClass.DECODE


@pytest.mark.parametrize(("mode", "stream"), [("slow", False), ("hang", True)])
async def test_silence_is_a_timeout(
    models: Models, server: ModelServer, provider: Provider, mode: str, stream: bool
) -> None:
    server.mode = mode
    request = asked(server, provider, stream=stream)
    late = replace(request, endpoint=replace(request.endpoint, timeout=0.2))
    assert (await failed(models, late)).error_class is ErrorClass.TIMEOUT


@pytest.mark.parametrize(("mode", "stream"), [("slow", False), ("hang", True)])
async def test_cancelling_closes_the_connection(
    models: Models, server: ModelServer, provider: Provider, mode: str, stream: bool
) -> None:
    server.mode = mode
    call = asyncio.create_task(models.chat(asked(server, provider, stream=stream)))
    await asyncio.wait_for(server.waiting.wait(), 5)
    assert not server.left.is_set()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.wait_for(server.left.wait(), 1)


async def test_connections_are_used_again(models: Models, server: ModelServer, provider: Provider) -> None:
    for stream in (True, False, True):
        await models.chat(asked(server, provider, stream=stream))
    assert server.connections == 1


async def test_nobody_there(models: Models, provider: Provider) -> None:
    endpoint = Endpoint("http://127.0.0.1:9", KEY, 2.0, "k")
    error = await failed(models, ChatRequest(provider, endpoint, "m", HELLO))
    assert error.error_class is ErrorClass.NETWORK
    assert "http://127.0.0.1:9" in error.message


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "[::ffff:127.0.0.1]", "127.1"])
async def test_closed_addresses_are_not_reached(server: ModelServer, provider: Provider, host: str) -> None:
    models = Models(EgressPolicy(), SystemClock())
    endpoint = Endpoint(f"http://{host}:{server.port}/v1", KEY, 2.0, "k")
    error = await failed(models, ChatRequest(provider, endpoint, "m", HELLO))
    assert error.error_class is ErrorClass.POLICY
    assert server.connections == 0
    await models.aclose()


async def test_a_name_leads_to_the_address_that_was_checked(
    models: Models, server: ModelServer, provider: Provider
) -> None:
    endpoint = Endpoint(f"http://localhost:{server.port}/v1", KEY, 2.0, "k")
    assert (await models.chat(ChatRequest(provider, endpoint, "m", HELLO))).text == TEXT
    assert server.headers["host"] == f"localhost:{server.port}"


async def test_the_environment_gives_nothing_away(
    models: Models, server: ModelServer, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = provider.value.upper()
    for variable in ("API_KEY", "AUTH_TOKEN", "ADMIN_KEY", "ORG_ID", "PROJECT_ID"):
        monkeypatch.setitem(os.environ, f"{name}_{variable}", "leak")
    monkeypatch.setitem(
        os.environ, f"{name}_CUSTOM_HEADERS", "Authorization: Bearer leak\nX-Api-Key: leak\nX-Own: leak"
    )
    monkeypatch.setitem(os.environ, f"{name}_BASE_URL", "http://127.0.0.1:9/leak")
    for proxy in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setitem(os.environ, proxy, "http://127.0.0.1:9")
    request = asked(server, provider)
    await models.chat(request)
    assert "leak" not in str(server.headers)
    await models.chat(replace(request, endpoint=replace(request.endpoint, api_key=None)))
    assert "leak" not in str(server.headers)
    assert not {"authorization", "x-api-key"} & set(server.headers)


async def test_many_calls_at_once(models: Models, server: ModelServer, provider: Provider) -> None:
    answers = await asyncio.gather(*(models.chat(asked(server, provider, stream=n % 2 == 0)) for n in range(20)))
    assert {one.text for one in answers} == {TEXT}


async def test_closed_models_open_again(models: Models, server: ModelServer, provider: Provider) -> None:
    await models.chat(asked(server, provider))
    await models.aclose()
    assert (await models.chat(asked(server, provider))).text == TEXT


async def test_vectors(models: Models, server: ModelServer, provider: Provider) -> None:
    if provider is not Provider.OPENAI:
        return
    endpoint = Endpoint(f"{server.url}/v1", KEY, 5.0, "k")
    request = EmbedRequest(endpoint, "embedder", ("a", "bb", "ccc"), dimensions=3)
    response = await models.embed(request)
    assert [vector[0] for vector in response.vectors] == [1.0, 2.0, 3.0]
    assert response.model == "embedder-001"
    assert response.usage == TokenUsage(11)
    assert server.body["dimensions"] == 3
    for mode, error_class in (("missing", ErrorClass.DECODE), ("limited", ErrorClass.RATE_LIMITED)):
        server.mode = mode
        with pytest.raises(StepError) as raised:
            await models.embed(request)
        assert raised.value.error_class is error_class
