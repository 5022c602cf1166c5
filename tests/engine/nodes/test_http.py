import asyncio
import base64
import gzip
import socket
import zlib
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import jsonschema_rs
import pytest

from core.errors import ErrorClass, StepError
from core.manifest import Effect
from engine.node.sdk import NodeVersion
from engine.nodes.egress import EgressPolicy
from engine.nodes.http import http_request_node
from tests.engine.node.step_context import make_context
from tests.engine.nodes.loopback_server import Request, json_response, loopback, response


@pytest.fixture(scope="module")
async def http() -> AsyncIterator[NodeVersion]:
    node = http_request_node(EgressPolicy(["127.0.0.0/8"]))
    yield node
    await node.aclose()


async def fail(http: NodeVersion, params: dict[str, Any], **changes: Any) -> StepError:
    with pytest.raises(StepError) as raised:
        await http(params, make_context(**changes))
    return raised.value


async def test_a_post_sends_json_and_decodes_json(http: NodeVersion) -> None:
    async with loopback(lambda _: json_response(b'{"id": "a", "n": [1, 2.5, null]}', 201)) as server:
        context = make_context()
        params = {
            "url": f"{server.url}/v1/charge?fixed=1",
            "method": "post",
            "json": {"amount": 5},
            "query": {"tag": ["a b", "c"], "flag": True, "none": None, "n": 3},
            "headers": {"X-Amount": 12, "X-None": None},
        }
        output = await http(params, context)
        assert output["status"] == 201
        assert output["body"] == {"id": "a", "n": [1, 2.5, None]}
        assert output["headers"]["content-type"] == "application/json"
        assert context.reported.metrics["response_bytes"] == 32
        assert context.reported.metrics["ttfb_ms"] > 0
        assert jsonschema_rs.is_valid(http.manifest.output_schema, output)
        request = server.requests[0]
    assert request.method == "POST"
    assert request.body == b'{"amount":5}'
    assert request.headers["content-type"] == "application/json"
    assert request.headers["idempotency-key"] == context.idempotency_key
    assert request.headers["host"] == f"127.0.0.1:{server.port}"
    assert request.headers["x-amount"] == "12"
    assert "x-none" not in request.headers
    pairs = parse_qsl(urlsplit(request.target).query)
    assert pairs == [("fixed", "1"), ("tag", "a b"), ("tag", "c"), ("flag", "true"), ("n", "3")]


@pytest.mark.parametrize(
    ("params", "body", "kind"),
    [
        ({"json": None}, b"null", "application/json"),
        ({"form": {"a": "1 2", "b": ["x", "y"]}}, b"a=1+2&b=x&b=y", "application/x-www-form-urlencoded"),
        ({"body": "grüß"}, "grüß".encode(), "text/plain; charset=utf-8"),
        ({"body": {"base64": "AAH/"}}, b"\x00\x01\xff", "application/octet-stream"),
        ({"json": 1, "headers": {"Content-Type": "application/x-own"}}, b"1", "application/x-own"),
        ({}, b"", None),
    ],
)
async def test_bodies(http: NodeVersion, params: dict[str, Any], body: bytes, kind: str | None) -> None:
    async with loopback(lambda _: response()) as server:
        await http({"url": server.url, "method": "PUT", **params}, make_context())
    assert server.requests[0].body == body
    if kind:
        assert server.requests[0].headers["content-type"] == kind


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (response(200, b'{"a": 1}'), {"a": 1}),
        (response(200, b"plain words"), "plain words"),
        (response(200, b"\xff\x00"), {"base64": "/wA="}),
        (response(200, b"[1]", content_type="application/problem+json; charset=utf-8"), [1]),
        (response(200, b"\xef\xbb\xbf[1]", content_type="application/json"), [1]),
        (response(200, '["ü"]'.encode("latin-1"), content_type="application/json; charset=iso-8859-1"), ["ü"]),
        (response(200, b'{"a": 1}', content_type="text/plain"), '{"a": 1}'),
        (response(200, b"\xfc", content_type="text/html; charset=latin-1"), "ü"),
        (response(200, b"\xfc", content_type="text/html; charset=hex"), "\ufffd"),
        (response(200, b"\xfc", content_type="text/html; charset=idna"), "\ufffd"),
        (response(200, b"\x89PNG", content_type="image/png"), {"base64": base64.b64encode(b"\x89PNG").decode()}),
        (response(200, b"", content_type="application/json"), None),
        (b"HTTP/1.1 204 No Content\r\n\r\n", None),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\n[1]\r\n0\r\n\r\n", [1]),
        (response(200, gzip.compress(b"[1]"), content_encoding="gzip"), [1]),
        (response(200, gzip.compress(b"[1") + gzip.compress(b"]"), content_encoding="gzip"), [1]),
        (response(200, zlib.compress(b"[1]"), content_encoding="deflate"), [1]),
        (response(200, zlib.compress(b"[1]", wbits=-15), content_encoding="deflate"), [1]),
    ],
)
async def test_what_comes_back_is_decoded(http: NodeVersion, answer: bytes, body: Any) -> None:
    async with loopback(lambda _: answer) as server:
        assert (await http({"url": server.url}, make_context()))["body"] == body


async def test_head_has_no_body(http: NodeVersion) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-type: application/json\r\n\r\n"
    async with loopback(lambda _: head) as server:
        output = await http({"url": server.url, "method": "HEAD"}, make_context())
        assert output["body"] is None
        assert output["headers"]["content-length"] == "5"


@pytest.mark.parametrize(
    "answer",
    [
        json_response(b'{"token": "hunter22"'),
        json_response(b"[" * 200 + b"]" * 200),
        response(200, b"hunter22", content_encoding="gzip"),
        response(200, gzip.compress(b"hunter22" * 99)[:-9], content_encoding="gzip"),
        response(200, b"hunter22", content_encoding="br"),
    ],
)
async def test_a_broken_body_is_named_and_not_quoted(http: NodeVersion, answer: bytes) -> None:
    async with loopback(lambda _: answer) as server:
        error = await fail(http, {"url": server.url, "method": "POST"})
    assert error.error_class is ErrorClass.DECODE
    assert error.detail["status"] == 200
    assert error.outcome_unknown
    assert "hunter22" not in error.message


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "a..example"])
async def test_a_host_that_no_resolver_takes(http: NodeVersion, host: str) -> None:
    error = await fail(http, {"url": f"http://{host}/"})
    assert error.error_class is ErrorClass.NETWORK
    assert "cannot be resolved" in error.message


@pytest.mark.parametrize(
    ("status", "headers", "error_class", "retry_after"),
    [
        (401, {}, ErrorClass.AUTH, None),
        (403, {}, ErrorClass.AUTH, None),
        (404, {}, ErrorClass.UPSTREAM_4XX, None),
        (429, {}, ErrorClass.RATE_LIMITED, None),
        (429, {"retry_after": "7"}, ErrorClass.RATE_LIMITED, 7.0),
        (429, {"retry_after": "Wed, 01 Jan 2020 00:00:00 GMT"}, ErrorClass.RATE_LIMITED, 0.0),
        (429, {"retry_after": "nonsense"}, ErrorClass.RATE_LIMITED, None),
        (429, {"retry_after": "nan"}, ErrorClass.RATE_LIMITED, None),
        (429, {"retry_after": "Mon, 99999999999999999999 Jan 2020 00:00:00 GMT"}, ErrorClass.RATE_LIMITED, None),
        (503, {}, ErrorClass.UPSTREAM_5XX, None),
        (503, {"retry_after": "99999999"}, ErrorClass.RATE_LIMITED, 86_400.0),
        (500, {}, ErrorClass.UPSTREAM_5XX, None),
    ],
)
async def test_statuses_are_classified(
    http: NodeVersion, status: int, headers: dict[str, str], error_class: ErrorClass, retry_after: float | None
) -> None:
    answer = response(status, b'{"error": {"message": "card declined"}}', **headers)
    async with loopback(lambda _: answer) as server:
        error = await fail(http, {"url": f"{server.url}/x?key=hunter22", "method": "POST"})
    assert (error.error_class, error.retry_after) == (error_class, retry_after)
    assert error.detail["status"] == status
    assert "card declined" in error.message
    assert "hunter22" not in error.message
    assert not error.outcome_unknown


async def test_a_status_may_be_accepted(http: NodeVersion) -> None:
    async with loopback(lambda _: response(404, b"gone")) as server:
        assert (await http({"url": server.url, "fail_on_status": False}, make_context()))["status"] == 404
        assert (await http({"url": server.url, "accept_status": [404]}, make_context()))["body"] == "gone"
        assert (await fail(http, {"url": server.url, "accept_status": [410]})).detail["status"] == 404


@pytest.mark.parametrize("bomb", [True, False])
async def test_the_size_is_bounded_also_unpacked(http: NodeVersion, bomb: bool) -> None:
    answer = (
        response(200, gzip.compress(bytes(50_000_000), 9), content_encoding="gzip")
        if bomb
        else response(200, bytes(200_000))
    )
    async with loopback(lambda _: answer) as server:
        error = await fail(http, {"url": server.url, "max_response_bytes": 100_000})
        assert error.error_class is ErrorClass.POLICY
        assert "max_response_bytes" in error.message
    async with loopback(lambda _: response(200, bytes(1_000))) as server:
        await http({"url": server.url, "max_response_bytes": 1_000}, make_context())


async def test_network_failures(http: NodeVersion) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    error = await fail(http, {"url": f"http://127.0.0.1:{port}", "method": "POST"})
    assert (error.error_class, error.outcome_unknown) == (ErrorClass.NETWORK, False)
    error = await fail(http, {"url": "http://no-such-host.invalid/"})
    assert error.error_class is ErrorClass.NETWORK
    async with loopback(lambda _: None) as server:
        error = await fail(http, {"url": server.url, "method": "POST"})
        assert (error.error_class, error.outcome_unknown) == (ErrorClass.NETWORK, True)
        error = await fail(http, {"url": server.url, "method": "POST"}, effect=Effect.IDEMPOTENT)
        assert not error.outcome_unknown
        assert not (await fail(http, {"url": server.url})).outcome_unknown

    async def plain(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 this is no TLS")
        writer.close()

    async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
        error = await fail(http, {"url": f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", "method": "POST"})
        assert (error.error_class, error.outcome_unknown) == (ErrorClass.NETWORK, False)


async def test_answers_that_break_off(http: NodeVersion) -> None:
    short = b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\nconnection: close\r\n\r\nabc"
    async with loopback(lambda _: short) as server:
        error = await fail(http, {"url": server.url, "method": "POST"})
        assert (error.error_class, error.outcome_unknown) == (ErrorClass.NETWORK, True)
    async with loopback(lambda _: b"not http at all\r\n\r\nconnection: close") as server:
        assert (await fail(http, {"url": server.url})).error_class is ErrorClass.DECODE


async def test_a_silent_server_times_out_and_can_be_cancelled(http: NodeVersion) -> None:
    async def silent(_: Request) -> None:
        await asyncio.sleep(30)

    async with loopback(silent) as server:
        error = await fail(http, {"url": server.url, "method": "POST"}, timeout=0.1)
        assert (error.error_class, error.outcome_unknown) == (ErrorClass.TIMEOUT, True)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await http({"url": server.url}, make_context())


@pytest.mark.parametrize(
    ("auth", "header", "value"),
    [
        ({"type": "basic", "username": "u", "password": "p:w"}, "authorization", "Basic dTpwOnc="),
        ({"type": "bearer", "token": "t0k"}, "authorization", "Bearer t0k"),
        ({"type": "api_key", "name": "X-Key", "value": "k"}, "x-key", "k"),
    ],
)
async def test_auth(http: NodeVersion, auth: dict[str, str], header: str, value: str) -> None:
    context = make_context()
    async with loopback(lambda _: response()) as server:
        await http({"url": server.url, "auth": auth}, context)
    assert server.requests[0].headers[header] == value
    assert context.reported.sensitive == (["dTpwOnc="] if auth["type"] == "basic" else [])


async def test_an_api_key_in_the_query(http: NodeVersion) -> None:
    async with loopback(lambda _: response()) as server:
        auth = {"type": "api_key", "name": "key", "value": "a&b", "in": "query"}
        await http({"url": f"{server.url}/?q=1", "auth": auth}, make_context())
    assert parse_qsl(urlsplit(server.requests[0].target).query) == [("q", "1"), ("key", "a&b")]


@pytest.mark.parametrize(
    ("params", "word"),
    [
        ({"url": "ftp://x/"}, "https://"),
        ({"url": "/relative"}, "absolute"),
        ({"url": "http://u:p@127.0.0.1/"}, "`auth`"),
        ({"url": "http://127.0.0.1/a\r\nX: y"}, "control character"),
        ({"url": "http://127.0.0.1:99999/"}, "valid URL"),
        ({"headers": {"X-A": "b\r\nX-C: d"}}, "line break"),
        ({"headers": {"X A": "b"}}, "name"),
        ({"headers": {"Host": "evil"}}, "may not set"),
        ({"headers": {"Transfer-Encoding": "chunked"}}, "may not set"),
        ({"headers": {"Content-Length": "3"}}, "may not set"),
        ({"auth": {"type": "bearer", "token": "a\nb"}}, "line break"),
        ({"auth": {"type": "api_key", "name": "Host", "value": "b"}}, "may not set"),
        ({"auth": {"type": "basic", "username": "a:b", "password": "c"}}, "colon"),
        ({"auth": {"type": "digest"}}, "auth"),
        ({"json": 1, "form": {}}, "remove one"),
        ({"body": {"base64": "***"}}, "base64"),
        ({"query": {"a": {"b": 1}}}, "query"),
        ({"method": "TRACE"}, "method"),
    ],
)
async def test_wrong_parameters_are_refused_before_anything_is_sent(
    http: NodeVersion, params: dict[str, Any], word: str
) -> None:
    async with loopback(lambda _: response()) as server:
        error = await fail(http, {"url": server.url, "method": "PUT", **params})
    assert error.error_class is ErrorClass.INVALID_INPUT
    assert word in error.message
    assert server.connections == 0


@pytest.mark.parametrize(
    ("params", "effect"),
    [
        ({}, Effect.IDEMPOTENT),
        ({"method": "put"}, Effect.IDEMPOTENT),
        ({"method": "POST"}, Effect.UNSAFE),
        ({"method": "PATCH"}, Effect.UNSAFE),
        ({"method": "{{ input.method }}"}, Effect.UNSAFE),
    ],
)
def test_the_effect_depends_on_the_method(http: NodeVersion, params: dict[str, Any], effect: Effect) -> None:
    assert http.effect_of(params) is effect
    assert http.manifest.secret_fields == ("headers", "auth")


async def test_connections_are_kept_and_reused(http: NodeVersion) -> None:
    async with loopback(lambda _: response(200, b"x")) as server:
        for _ in range(5):
            await http({"url": server.url}, make_context())
    assert server.connections == 1
    assert len(server.requests) == 5


async def test_a_key_of_the_user_stays(http: NodeVersion) -> None:
    async with loopback(lambda _: response()) as server:
        await http({"url": server.url, "headers": {"idempotency-Key": "mine"}}, make_context())
    assert server.requests[0].headers["idempotency-key"] == "mine"
