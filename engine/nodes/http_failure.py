"""Names what went wrong with an HTTP call, in the terms that retry policies use."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp

from core.errors import ErrorClass, StepError
from core.json import JsonError, JsonValue, decode

_MAX_RETRY_AFTER = 86_400.0
_TOLD = ("message", "detail", "title", "error_description", "error", "code", "reason")
_MAX_TOLD = 200


def connection_failure(error: Exception, origin: str, unsafe: bool) -> StepError:
    """The call had no answer.

    Args:
        error: what aiohttp raised.
        origin: scheme, host and port; the rest of a URL may hold secrets.
        unsafe: whether the request may not be repeated; then an outcome is unknown once bytes may have been sent.
    """
    if isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ClientConnectorCertificateError)):
        return StepError(ErrorClass.NETWORK, _unreached(error, origin))
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return StepError(ErrorClass.TIMEOUT, f"No connection to {origin} within the time allowed.")
    if isinstance(error, TimeoutError):
        return StepError(ErrorClass.TIMEOUT, f"{origin} did not answer in time.", outcome_unknown=unsafe)
    if isinstance(error, aiohttp.ClientResponseError):
        return StepError(ErrorClass.DECODE, f"{origin} answered with broken HTTP.", outcome_unknown=unsafe)
    return StepError(ErrorClass.NETWORK, f"The connection to {origin} broke.", outcome_unknown=unsafe)


def _unreached(error: Exception, origin: str) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"The host of {origin} cannot be resolved."
    if isinstance(error, aiohttp.ClientConnectorError) and not isinstance(error, aiohttp.ClientSSLError):
        reason = error.os_error.strerror or type(error.os_error).__name__
        return f"No connection to {origin}: {reason}."
    return f"No trusted TLS connection to {origin}: check its certificate."


def status_failure(status: int, headers: Mapping[str, str], body: bytes, origin: str, now: datetime) -> StepError:
    """The server answered with a status that means failure."""
    retry_after = parse_retry_after(headers.get("Retry-After"), now)
    if status == 429 or (status == 503 and retry_after is not None):
        error_class, what = ErrorClass.RATE_LIMITED, "asks to slow down"
    elif status in {401, 403}:
        error_class, what = ErrorClass.AUTH, "refuses the credentials"
    elif status >= 500:
        error_class, what = ErrorClass.UPSTREAM_5XX, "failed"
    else:
        error_class, what = ErrorClass.UPSTREAM_4XX, "refuses the request"
    told = _told(body)
    message = f"{origin} {what} (HTTP status {status})" + (f": {told}" if told else ".")
    return StepError(error_class, message, retry_after=retry_after, detail={"status": status})


def parse_retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds to wait, from a number or an HTTP date; at most a day; None when there is none or it is malformed."""
    if value is None:
        return None
    text = value.strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = parsedate_to_datetime(text)
        except (ValueError, OverflowError):  # a figure may be too large for any date
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = (moment - now).total_seconds()
    if not math.isfinite(seconds):
        return None
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER)


def _told(body: bytes) -> str:
    """What a JSON error body says in a short sentence. Longer texts are left out whole: a cut could split a secret."""
    try:
        value: JsonValue = decode(body)
    except JsonError:
        return ""
    for _ in range(2):
        if not isinstance(value, dict):
            break
        for name in _TOLD:
            found = value.get(name)
            if isinstance(found, str) and 0 < len(found) <= _MAX_TOLD and found.isprintable():
                return found
        value = value.get("error")
    return ""
