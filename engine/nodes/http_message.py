"""What is sent: URL, headers and body made from a step's parameters, and what of them a redirect may take along."""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal, NotRequired
from urllib.parse import urlencode

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict
from yarl import URL

from core.errors import ErrorClass, StepError
from core.json import JsonError, JsonValue, encode
from engine.node.context import StepContext
from engine.node.sdk import ABSENT
from engine.nodes.egress import EgressPolicy, EgressRefused

Scalar = str | int | float | bool | None

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,200}")
_FORBIDDEN_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
# Ours to set: another value would let a request say one thing to us and another to a server or proxy.
_RESERVED = frozenset(
    {
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "te",
        "trailer",
        "upgrade",
        "expect",
        "http2-settings",
    }
)
# Any header may hold a secret, so only these go along to another origin.
_PORTABLE = frozenset(
    {"accept", "accept-language", "content-type", "user-agent", "idempotency-key", "cache-control", "accept-encoding"}
)


class Basic(TypedDict):
    """User name and password (RFC 7617)."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    type: Literal["basic"]
    username: str
    password: str


class Bearer(TypedDict):
    """A token in the Authorization header (RFC 6750)."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    type: Literal["bearer"]
    token: str


# `in` is a keyword, hence the functional form.
ApiKey = TypedDict(
    "ApiKey",
    {"type": Literal["api_key"], "name": str, "value": str, "in": NotRequired[Literal["header", "query"]]},
)
ApiKey.__pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[attr-defined]

Auth = Annotated[Basic | Bearer | ApiKey, Field(discriminator="type")]


class Base64Body(TypedDict):
    """Bytes for the body."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    base64: str


@dataclass(frozen=True, slots=True)
class Message:
    """One request. `headers` have lower-case names."""

    method: str
    url: URL
    headers: dict[str, str]
    body: bytes | None


def invalid(field: str, sentence: str) -> StepError:
    """The parameter cannot be used; nothing was sent."""
    return StepError(ErrorClass.INVALID_INPUT, f"Parameter `{field}` {sentence}", detail={"field": field})


def build_message(
    method: str,
    url: str,
    query: Mapping[str, Scalar | list[Scalar]],
    headers: Mapping[str, Scalar],
    auth: Auth | None,
    content: tuple[bytes, str] | None,
    context: StepContext,
) -> Message:
    """The first request of a call. Raises StepError(INVALID_INPUT)."""
    target = parse_url(url)
    pairs = _pairs(query)
    sent = _headers(headers)
    if auth is not None:
        pairs += _authorize(auth, sent, context)
    if pairs:
        target = target.extend_query(pairs)
    body: bytes | None = None
    if content is not None:
        body, kind = content
        sent.setdefault("content-type", kind)
    sent.setdefault("idempotency-key", context.idempotency_key)
    sent.setdefault("user-agent", "reflux")
    sent.setdefault("accept", "*/*")
    sent.setdefault("accept-encoding", "gzip, deflate")
    return Message(method, target, sent, body)


def parse_url(text: str) -> URL:
    """An absolute http or https URL without credentials and fragment. Raises StepError(INVALID_INPUT)."""
    if re.search(r"[\x00-\x20\x7f\\]", text.strip()):
        raise invalid("url", "contains a space, a backslash or a control character: percent-encode it.")
    try:
        url = URL(text.strip())
        port = url.port
    except ValueError:
        raise invalid("url", "is not a valid URL: write for example https://api.example.com/v1/items.") from None
    if url.scheme not in {"http", "https"} or not url.raw_host or port == 0:
        raise invalid("url", "must be absolute and begin with https:// or http://.")
    if url.raw_user is not None or url.raw_password is not None:
        raise invalid("url", "holds a user name or password: put them into `auth`.")
    return url.with_fragment(None)


def encode_content(
    json: JsonValue, form: Mapping[str, Scalar | list[Scalar]] | None, body: str | Base64Body | None
) -> tuple[bytes, str] | None:
    """The body's bytes and their content type; None when there is none. Raises StepError(INVALID_INPUT)."""
    given = [name for name, value in (("form", form), ("body", body)) if value is not None]
    if json is not ABSENT:
        given.insert(0, "json")
    if len(given) > 1:
        raise invalid(given[1], f"cannot stand beside `{given[0]}`: a request has one body, remove one of them.")
    if json is not ABSENT:
        try:
            return encode(json), "application/json"
        except JsonError as error:
            raise invalid("json", f"has no JSON form: {error}.") from None
    if form is not None:
        return urlencode(_pairs(form)).encode(), "application/x-www-form-urlencoded"
    if isinstance(body, str):
        return body.encode(), "text/plain; charset=utf-8"
    if body is not None:
        try:
            return base64.b64decode(body["base64"], validate=True), "application/octet-stream"
        except (binascii.Error, ValueError):
            raise invalid("body", "holds text under `base64` that is not base64.") from None
    return None


def redirected(message: Message, status: int, location: str, policy: EgressPolicy) -> Message:
    """The request that a redirect asks for (RFC 9110, section 15.4).

    Credentials, cookies and every header that could hold a secret stay with the origin that they were meant for.

    Raises:
        EgressRefused: the new place may not be reached.
    """
    try:
        url = message.url.join(URL(location)).with_fragment(None)
        if url.scheme not in {"http", "https"} or not url.raw_host or url.port == 0:
            raise ValueError
    except ValueError:
        raise EgressRefused("The server redirects to something that is not an http or https address.") from None
    url = url.with_user(None)
    policy.check_host(url.raw_host or "")
    headers = message.headers
    if url.origin() != message.url.origin():
        headers = {name: value for name, value in headers.items() if name in _PORTABLE}
    if status == 303 or (status in {301, 302} and message.method == "POST"):
        kept = {name: value for name, value in headers.items() if name != "content-type"}
        return Message("HEAD" if message.method == "HEAD" else "GET", url, kept, None)
    return replace(message, url=url, headers=headers)


def _headers(given: Mapping[str, Scalar]) -> dict[str, str]:
    sent: dict[str, str] = {}
    for name, value in given.items():
        lower = name.lower()
        if not _TOKEN.fullmatch(name):
            raise invalid("headers", f"has a name that is none in HTTP: {name[:60]!r}.")
        if lower in _RESERVED:
            raise invalid("headers", f"may not set {name!r}: the engine sets it, remove it.")
        if value is None:
            continue
        text = _text(value).strip(" \t")
        if _FORBIDDEN_VALUE.search(text):
            raise invalid("headers", f"has a line break or control character in the value of {name!r}: remove it.")
        sent[lower] = text
    return sent


def _authorize(auth: Auth, headers: dict[str, str], context: StepContext) -> list[tuple[str, str]]:
    """Adds the credentials to the headers, or returns them as query pairs."""
    if auth["type"] == "basic":
        if ":" in auth["username"]:
            raise invalid("auth", "has a colon in `username`, which basic authentication cannot carry.")
        token = base64.b64encode(f"{auth['username']}:{auth['password']}".encode()).decode()
        context.sensitive(token)
        headers["authorization"] = f"Basic {token}"
    elif auth["type"] == "bearer":
        headers.update(_headers({"authorization": f"Bearer {auth['token']}"}))
    elif auth.get("in", "header") == "query":
        return [(auth["name"], auth["value"])]
    else:
        headers.update(_headers({auth["name"]: auth["value"]}))
    return []


def _pairs(given: Mapping[str, Scalar | list[Scalar]]) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for name, value in given.items():
        values = value if isinstance(value, list) else [value]
        pairs.extend((name, _text(one)) for one in values if one is not None)
    return pairs


def _text(value: str | int | float | bool | None) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
