"""`http.request`: one HTTP call, bounded in size and time, with every failure named."""

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import aiohttp
from pydantic import BeforeValidator, Field
from typing_extensions import TypedDict

from core.errors import ErrorClass, StepError
from core.json import JsonValue
from core.manifest import Effect
from engine.node.sdk import ABSENT, NodeVersion, Secret, StepContext, node
from engine.nodes.egress import EgressPolicy
from engine.nodes.http_body import BodyTooLarge, decode_body, read_body
from engine.nodes.http_client import CONNECT_SECONDS, HttpClient
from engine.nodes.http_failure import connection_failure, status_failure
from engine.nodes.http_message import (
    Auth,
    Base64Body,
    Message,
    Scalar,
    build_message,
    encode_content,
    redirected,
)

MAX_RESPONSE_BYTES = 10_000_000
_ERROR_BODY_BYTES = 64 * 1024
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})

Method = Annotated[
    Literal["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"],
    BeforeValidator(lambda value: value.upper() if isinstance(value, str) else value),
]


class HttpResponse(TypedDict):
    """What the server answered. `headers` have lower-case names."""

    status: int
    headers: dict[str, str]
    body: JsonValue


@dataclass(frozen=True, slots=True)
class _Rules:
    """How to treat what comes back."""

    redirects: int
    limit: int
    fail_on_status: bool
    accept_status: frozenset[int]
    unsafe: bool


def http_request_node(egress: EgressPolicy, tls: ssl.SSLContext | None = None) -> NodeVersion:
    """The node, with a connection pool of its own that `aclose` closes.

    Args:
        egress: which addresses may be reached.
        tls: how certificates are verified; default: the system's authorities.
    """
    client = HttpClient(egress, tls)

    @node(
        "http.request",
        version="1.0.0",
        effect=Effect.UNSAFE,
        category="http",
        error_classes=(
            ErrorClass.NETWORK,
            ErrorClass.TIMEOUT,
            ErrorClass.RATE_LIMITED,
            ErrorClass.AUTH,
            ErrorClass.UPSTREAM_4XX,
            ErrorClass.UPSTREAM_5XX,
            ErrorClass.DECODE,
            ErrorClass.POLICY,
        ),
        metrics=("response_bytes", "ttfb_ms"),
        effect_rule=_effect,
        close=client.aclose,
    )
    async def http_request(
        context: StepContext,
        url: Annotated[str, Field(min_length=1, max_length=16_000)],
        method: Method = "GET",
        headers: Annotated[dict[str, Scalar] | None, Secret] = None,
        query: dict[str, Scalar | list[Scalar]] | None = None,
        json: JsonValue = ABSENT,
        form: dict[str, Scalar | list[Scalar]] | None = None,
        body: str | Base64Body | None = None,
        auth: Annotated[Auth | None, Secret] = None,
        follow_redirects: bool | None = None,
        max_redirects: Annotated[int, Field(ge=0, le=20)] = 5,
        max_response_bytes: Annotated[int, Field(ge=0, le=100_000_000)] = MAX_RESPONSE_BYTES,
        fail_on_status: bool = True,
        accept_status: list[Annotated[int, Field(ge=100, le=599)]] | None = None,
    ) -> HttpResponse:
        """HTTP request.

        Calls a URL and gives back status, headers and body. The body is decoded when it is JSON, is text when it is
        text, `{"base64": ...}` when it is binary, and null when it is empty. Repeated response headers are joined
        with a comma, `set-cookie` with line breaks.

        Args:
            url: Absolute http or https address.
            method: GET, HEAD, OPTIONS, PUT and DELETE may be repeated after a crash, POST and PATCH may not unless
                the step says `effect: idempotent`.
            headers: Request headers; `{{ secrets.NAME }}` may stand here. `Idempotency-Key` is set unless given.
            query: Added to the URL's query; a list repeats its name, null is left out.
            json: Any value, sent as JSON.
            form: Sent as an HTML form.
            body: Sent as it is; `{"base64": ...}` for bytes.
            auth: `{type: basic, username, password}`, `{type: bearer, token}` or `{type: api_key, name, value,
                in: header | query}`.
            follow_redirects: Default: only for GET and HEAD. Credentials never follow to another origin.
            max_redirects: How many redirects to follow.
            max_response_bytes: Largest body, also after it is unpacked.
            fail_on_status: Whether a status of 400 and above is an error.
            accept_status: Statuses that are no error although they are 400 or above.
        """
        follow = method in {"GET", "HEAD"} if follow_redirects is None else follow_redirects
        effect = context.effect or _effect({"method": method})
        rules = _Rules(
            redirects=max_redirects if follow else -1,
            limit=max_response_bytes,
            fail_on_status=fail_on_status,
            accept_status=frozenset(accept_status or ()),
            unsafe=effect is Effect.UNSAFE,
        )
        content = encode_content(json, form, body)
        message = build_message(method, url, query or {}, headers or {}, auth, content, context)
        egress.check_host(message.url.raw_host or "")
        return await _request(client, message, rules, context)

    return http_request


def _effect(values: Mapping[str, JsonValue]) -> Effect:
    method = values.get("method", "GET")
    idempotent = isinstance(method, str) and method.upper() in _IDEMPOTENT
    return Effect.IDEMPOTENT if idempotent else Effect.UNSAFE


async def _request(client: HttpClient, message: Message, rules: _Rules, context: StepContext) -> HttpResponse:
    for hop in range(max(rules.redirects, 0) + 1):
        async with _send(client, message, rules, context) as response:
            location = response.headers.get("Location")
            if rules.redirects < 0 or response.status not in _REDIRECTS or location is None:
                return await _result(response, message, rules, context)
            if hop < rules.redirects:
                message = redirected(message, response.status, location, client.policy)
    raise StepError(
        ErrorClass.POLICY,
        f"More than {rules.redirects} redirects: follow the last one by hand, or raise `max_redirects`.",
        outcome_unknown=rules.unsafe,
    )


@asynccontextmanager
async def _send(
    client: HttpClient, message: Message, rules: _Rules, context: StepContext
) -> AsyncIterator[aiohttp.ClientResponse]:
    origin = str(message.url.origin())
    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=min(CONNECT_SECONDS, context.timeout), sock_read=context.timeout
    )
    begun = context.clock.monotonic()
    try:
        async with client.session().request(
            message.method,
            message.url,
            headers=message.headers,
            data=message.body,
            allow_redirects=False,
            timeout=timeout,
        ) as response:
            context.report(ttfb_ms=(context.clock.monotonic() - begun) * 1000)
            yield response
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise connection_failure(error, origin, rules.unsafe) from None


async def _result(
    response: aiohttp.ClientResponse, message: Message, rules: _Rules, context: StepContext
) -> HttpResponse:
    status = response.status
    if status >= 400 and rules.fail_on_status and status not in rules.accept_status:
        body = await _error_body(response, rules.limit)
        raise status_failure(status, response.headers, body, str(message.url.origin()), context.clock.now())
    try:
        raw, size = await read_body(response, rules.limit)
        context.report(response_bytes=size)
        body_value = None if message.method == "HEAD" else decode_body(raw, response.headers, status)
    except BodyTooLarge:
        response.close()
        raise StepError(
            ErrorClass.POLICY,
            f"The answer is larger than {rules.limit} bytes: ask for less, or raise `max_response_bytes`.",
            detail={"status": status},
            outcome_unknown=rules.unsafe,
        ) from None
    except StepError as error:
        error.outcome_unknown = rules.unsafe
        raise
    return {"status": status, "headers": _headers(response.headers), "body": body_value}


async def _error_body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """As much of it as helps to word the failure: nothing when it is large or broken."""
    try:
        return (await read_body(response, min(limit, _ERROR_BODY_BYTES)))[0]
    except (BodyTooLarge, StepError, aiohttp.ClientError, TimeoutError):
        response.close()
        return b""


def _headers(received: Any) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in received.items():
        lower = name.lower()
        separator = "\n" if lower == "set-cookie" else ", "
        headers[lower] = f"{headers[lower]}{separator}{value}" if lower in headers else value
    return headers
