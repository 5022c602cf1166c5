"""HTTP requests that start runs: are they genuine, and what do they bring. Pure."""

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import parse_qsl

import core.json
from core.errors import RefluxError
from core.json import JsonError, JsonValue

SIGNATURES = ("x-reflux-signature", "x-hub-signature-256")
TIMESTAMP = "x-reflux-timestamp"
DELIVERY_IDS = ("x-reflux-delivery", "x-github-delivery", "webhook-id", "idempotency-key")
LONGEST_DELIVERY = 200
_NOT_SHOWN = frozenset({*SIGNATURES, "authorization", "proxy-authorization", "cookie", "x-api-key"})
_PREFIX = "sha256="
_STAMPED = re.compile(rb"[0-9]{1,12}\.")


class Refused(RefluxError):
    """The request is not genuine."""

    status = 401
    title = "Unauthorized"


class NotReadable(RefluxError):
    """The body, or a header, cannot be read."""

    status = 400
    title = "Bad request"


class NotReadableType(RefluxError):
    """The body is neither text nor a form."""

    status = 415
    title = "Unsupported media type"


@dataclass(frozen=True, slots=True)
class WebhookRequest:
    """A request.

    Attributes:
        headers: by name in lower case.
        body: as it was sent, since that is what is signed.
    """

    method: str
    headers: Mapping[str, str]
    body: bytes = b""
    query: Mapping[str, str] = field(default_factory=dict)


def check_signature(request: WebhookRequest, secret: str, tolerance: float, now: datetime) -> None:
    """Make sure that whoever sent this knows the secret, and sent it not long ago if it is stamped.

    The signature is over the body, or over `<timestamp>.<body>` when there is a time stamp.

    Raises:
        Refused: no signature, a wrong one, or a time stamp too far from `now` (`tolerance` seconds).
    """
    given = next((request.headers[name] for name in SIGNATURES if name in request.headers), None)
    if given is None:
        raise Refused("the header X-Reflux-Signature is missing; it is sha256=<hex HMAC-SHA256 of the body>")
    stamp = request.headers.get(TIMESTAMP)
    if stamp is None and _STAMPED.match(request.body):
        # `<timestamp>.<body>` sent as a body would bear a stamped request's signature, without its time.
        raise Refused("a body that begins like a time stamp needs the header X-Reflux-Timestamp")
    signed = request.body if stamp is None else stamp.encode() + b"." + request.body
    right = _PREFIX + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(right.encode(), given.strip().encode()):
        raise Refused("the signature is wrong")
    if stamp is not None and not _is_recent(stamp, tolerance, now):
        raise Refused(f"the time stamp is not within {tolerance:g} s of now; sign the request again")


def delivery_of(request: WebhookRequest) -> str | None:
    """The id of the delivery, the same when it is sent again; None when it has none.

    Raises:
        NotReadable: it is longer than LONGEST_DELIVERY characters or not printable.
    """
    for name in DELIVERY_IDS:
        given = request.headers.get(name)
        if given is None:
            continue
        if not given or len(given) > LONGEST_DELIVERY or not given.isprintable():
            raise NotReadable(f"the header {name} must have 1 to {LONGEST_DELIVERY} printable characters")
        return given
    return None


def input_of(request: WebhookRequest, with_request: bool) -> JsonValue:
    """What the run is given: the body, with `_request` beside it when the trigger asks.

    Raises:
        NotReadable: it says that it is JSON, and is not.
        NotReadableType: it is not text.
    """
    body = _body(request)
    if not with_request:
        return body
    return {**(body if isinstance(body, dict) else {"body": body}), "_request": about(request)}


def about(request: WebhookRequest) -> dict[str, JsonValue]:
    """The request without its body, and without what must not be kept."""
    shown = {name: value for name, value in request.headers.items() if name not in _NOT_SHOWN}
    return {"method": request.method, "headers": shown, "query": dict(request.query)}


def _is_recent(stamp: str, tolerance: float, now: datetime) -> bool:
    return stamp.isascii() and stamp.isdigit() and len(stamp) <= 12 and abs(now.timestamp() - int(stamp)) <= tolerance


def _body(request: WebhookRequest) -> JsonValue:
    raw = request.body
    if not raw.strip():
        return {}
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_json = kind in ("application/json", "text/json") or kind.endswith("+json")
    try:
        return core.json.decode(raw)
    except JsonError as error:
        if is_json:
            raise NotReadable(f"the body cannot be read: {error}") from None
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise NotReadableType("the body is not text in UTF-8; send JSON, a form or text") from None
    if kind == "application/x-www-form-urlencoded":
        return _form(text)
    return {"text": text}


def _form(text: str) -> dict[str, JsonValue]:
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=10_000)
    except ValueError as error:
        raise NotReadable(f"the form cannot be read: {error}") from None
    form: dict[str, JsonValue] = {}
    for name, value in pairs:
        if name not in form:
            form[name] = value
        elif isinstance(form[name], list):
            form[name].append(value)
        else:
            form[name] = [form[name], value]
    return form
