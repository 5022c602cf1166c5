import hashlib
import hmac
from datetime import UTC, datetime
from typing import Any

import pytest

from engine.triggers.webhook import (
    NotReadable,
    NotReadableType,
    Refused,
    WebhookRequest,
    check_signature,
    delivery_of,
    input_of,
)

NOW = datetime(2026, 3, 14, 12, tzinfo=UTC)
SECRET = "a-shared-secret"


def sign(text: bytes, secret: str = SECRET) -> str:
    return "sha256=" + hmac.new(secret.encode(), text, hashlib.sha256).hexdigest()


def request(body: bytes = b'{"a": 1}', **headers: str) -> WebhookRequest:
    return WebhookRequest("POST", {name.replace("_", "-"): value for name, value in headers.items()}, body)


def check(given: WebhookRequest, tolerance: float = 300) -> None:
    check_signature(given, SECRET, tolerance, NOW)


def test_the_signature_is_over_the_body_as_it_was_sent() -> None:
    check(request(x_reflux_signature=sign(b'{"a": 1}')))
    check(request(x_hub_signature_256=sign(b'{"a": 1}')))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x_reflux_signature": ""},
        {"x_reflux_signature": sign(b'{"a":1}')},
        {"x_reflux_signature": sign(b'{"a": 1}', "another")},
        {"x_reflux_signature": sign(b'{"a": 1}').removeprefix("sha256=")},
        {"x_reflux_signature": sign(b'{"a": 1}').upper()},
        {"x_reflux_signature": "sha256=é"},
    ],
)
def test_anything_else_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(Refused):
        check(request(**headers))


def stamped(seconds: int, body: bytes = b"{}") -> WebhookRequest:
    stamp = str(int(NOW.timestamp()) + seconds)
    return request(body, x_reflux_timestamp=stamp, x_reflux_signature=sign(stamp.encode() + b"." + body))


def test_a_time_stamp_is_signed_too() -> None:
    check(stamped(-299))
    check(stamped(299))
    stamp = str(int(NOW.timestamp()))
    with pytest.raises(Refused, match="wrong"):
        check(request(b"{}", x_reflux_timestamp=stamp, x_reflux_signature=sign(b"{}")))


@pytest.mark.parametrize("seconds", [-301, 301])
def test_an_old_time_stamp_is_refused(seconds: int) -> None:
    with pytest.raises(Refused, match="time stamp"):
        check(stamped(seconds))


@pytest.mark.parametrize("stamp", ["", "now", "-5", "1" * 40, "١٧"])
def test_what_is_no_time_stamp_is_refused(stamp: str) -> None:
    given = request(b"{}", x_reflux_timestamp=stamp, x_reflux_signature=sign(stamp.encode() + b".{}"))
    with pytest.raises(Refused):
        check(given)


def test_a_stamped_request_cannot_be_sent_again_as_one_without_a_stamp() -> None:
    old = stamped(-10_000)
    body = old.headers["x-reflux-timestamp"].encode() + b"." + old.body
    with pytest.raises(Refused, match="Timestamp"):
        check(request(body, x_reflux_signature=old.headers["x-reflux-signature"]))


@pytest.mark.parametrize(
    ("kind", "body", "value"),
    [
        ("application/json", b'{"a": 1}', {"a": 1}),
        ("application/vnd.github+json; charset=utf-8", b"[1]", [1]),
        ("application/json", b"", {}),
        ("", b"  \n", {}),
        ("text/plain", b"hello", {"text": "hello"}),
        ("text/plain", b"17", 17),
        ("application/x-www-form-urlencoded", b"a=1&b=x+y&a=2&c=", {"a": ["1", "2"], "b": "x y", "c": ""}),
        ("application/x-www-form-urlencoded", b'{"a": 1}', {"a": 1}),
    ],
)
def test_bodies(kind: str, body: bytes, value: Any) -> None:
    assert input_of(request(body, content_type=kind), with_request=False) == value


def test_bodies_without_sense() -> None:
    with pytest.raises(NotReadable):
        input_of(request(b"{", content_type="application/json"), with_request=False)
    with pytest.raises(NotReadable):
        input_of(request(b"[" * 200 + b"]" * 200, content_type="application/json"), with_request=False)
    with pytest.raises(NotReadableType):
        input_of(request(b"\xff\xfe\x00", content_type="image/png"), with_request=False)


def test_the_request_beside_the_body_has_no_secrets() -> None:
    kept = {"content-type": "application/json", "x-github-event": "push"}
    hidden = ("authorization", "cookie", "x-reflux-signature", "x-hub-signature-256", "x-api-key")
    headers = {**kept, **dict.fromkeys(hidden, "s3cret")}
    given = WebhookRequest("PUT", headers, b"[1]", {"page": "2"})
    assert input_of(given, with_request=True) == {
        "body": [1],
        "_request": {"method": "PUT", "headers": kept, "query": {"page": "2"}},
    }
    assert input_of(WebhookRequest("GET", {}, b""), with_request=True) == {
        "_request": {"method": "GET", "headers": {}, "query": {}}
    }


def test_the_id_of_a_delivery() -> None:
    assert delivery_of(request()) is None
    assert delivery_of(request(x_github_delivery="a")) == "a"
    assert delivery_of(request(idempotency_key="b")) == "b"
    assert delivery_of(request(webhook_id="c", idempotency_key="b")) == "c"
    for wrong in ("", "x" * 201, "a\tb"):
        with pytest.raises(NotReadable):
            delivery_of(request(x_reflux_delivery=wrong))
