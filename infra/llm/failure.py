"""Names what went wrong with a call of a language model, in the terms that retry policies use."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import httpx2

from core.clock import Clock
from core.errors import ErrorClass, StepError
from core.llm import Endpoint
from infra.llm.retry_after import retry_after

_MAX_TOLD = 300
_WORD = re.compile(r"[A-Za-z0-9_.-]{1,60}")
_TOO_LONG = re.compile(r"prompt is too long|maximum context length|context window|context[_ ]length", re.IGNORECASE)
# What errors inside a stream, which have no HTTP status of their own, would have had.
_STATUS = {
    "authentication_error": 401,
    "billing_error": 402,
    "context_length_exceeded": 400,
    "insufficient_quota": 429,
    "invalid_request_error": 400,
    "not_found_error": 404,
    "overloaded_error": 529,
    "permission_error": 403,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "request_too_large": 413,
    "timeout_error": 504,
}


class Failures:
    """Turns failures of one call into StepErrors.

    Args:
        sdk: the provider's module, for its exception classes; those of all providers have the same names.
        default_url: the provider's own address.
    """

    def __init__(self, sdk: Any, endpoint: Endpoint, default_url: str, clock: Clock) -> None:
        self._sdk = sdk
        self._key = endpoint.api_key
        self._clock = clock
        parts = urlsplit(endpoint.base_url or default_url)
        self._origin = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

    @contextmanager
    def named(self) -> Iterator[None]:
        """Within it, whatever the provider's client raises becomes a StepError."""
        try:
            yield
        except self._sdk.APIStatusError as error:
            raise self.of_status(error.status_code, error.response.headers, error.body) from None
        except (self._sdk.APITimeoutError, httpx2.TimeoutException) as error:
            raise self._timeout(error) from None
        except (self._sdk.APIConnectionError, httpx2.TransportError) as error:
            raise self._connection(error) from None
        except httpx2.InvalidURL:
            raise StepError(ErrorClass.INVALID_INPUT, "Parameter `base_url` is not a valid URL.") from None

    def of_status(self, status: int, headers: Mapping[str, str], body: object) -> StepError:
        """The provider answered with a status that means failure."""
        return status_failure(status, headers, body, self._origin, self._key, self._clock.now())

    def of_error(self, error: object) -> StepError:
        """The provider sent an error where an answer was due: inside a stream, or under status 200."""
        fields = error if isinstance(error, dict) else {}
        known = [
            _STATUS[one] for one in (fields.get("code"), fields.get("type")) if isinstance(one, str) and one in _STATUS
        ]
        code = fields.get("code")
        if isinstance(code, int) and 400 <= code <= 599:
            known.append(code)
        return self.of_status(known[0] if known else 500, {}, {"error": error})

    def cut(self) -> StepError:
        """The stream ended before the answer did."""
        return StepError(ErrorClass.NETWORK, f"The stream of {self._origin} broke off in the middle of the answer.")

    def garbled(self, reason: str) -> StepError:
        """The answer is not what the protocol says."""
        return StepError(ErrorClass.DECODE, f"{self._origin} did not answer as its protocol says: {reason}")

    def _timeout(self, error: Exception) -> StepError:
        if isinstance(error.__cause__ or error, httpx2.ConnectTimeout):
            return StepError(ErrorClass.TIMEOUT, f"No connection to {self._origin} within the time allowed.")
        return StepError(ErrorClass.TIMEOUT, f"{self._origin} did not answer in time.")

    def _connection(self, error: Exception) -> StepError:
        cause = error.__cause__ or error
        if isinstance(cause, StepError):
            return cause  # refused by the egress policy, or by the bounds of an answer
        if isinstance(cause, httpx2.ConnectError):
            return StepError(ErrorClass.NETWORK, f"No connection to {self._origin}: {_reason(cause)}.")
        return StepError(ErrorClass.NETWORK, f"The connection to {self._origin} broke.")


def status_failure(
    status: int, headers: Mapping[str, str], body: object, origin: str, key: str | None, now: datetime
) -> StepError:
    """The failure that an HTTP status and its body mean.

    Args:
        body: decoded JSON, or whatever came instead.
        key: the API key, which a server may repeat.
    """
    error_class, what = _class_of(status)
    error = body.get("error", body) if isinstance(body, dict) else None
    told = _told(error, key) if error_class is not ErrorClass.AUTH else ""  # providers quote parts of a wrong key
    detail: dict[str, str | int | float | bool | None] = {"status": status}
    code = _code(error)
    if code and not (key and key in code):
        detail["code"] = code
    if code == "context_length_exceeded" or (status in {400, 413, 422} and _TOO_LONG.search(told)):
        detail["reason"] = "context_length_exceeded"
    message = f"{origin} {what} (HTTP status {status})" + (f": {told}" if told else ".")
    return StepError(error_class, message, retry_after=retry_after(headers, now), detail=detail)


def _class_of(status: int) -> tuple[ErrorClass, str]:
    if status in {401, 403}:
        return ErrorClass.AUTH, "refuses the API key"
    if status == 429:
        return ErrorClass.RATE_LIMITED, "asks to slow down"
    if status == 408:
        return ErrorClass.TIMEOUT, "gave up waiting"
    if status >= 500:
        return ErrorClass.UPSTREAM_5XX, "failed"
    if status < 400:
        return ErrorClass.UPSTREAM_4XX, "redirects, which is not followed: change `base_url`"
    return ErrorClass.UPSTREAM_4XX, "refuses the request"


def _told(error: object, key: str | None) -> str:
    text = error.get("message") if isinstance(error, dict) else error
    if not isinstance(text, str):
        return ""
    text = " ".join(text.split())
    if key:
        text = text.replace(key, "***")
    return text if len(text) <= _MAX_TOLD and text.isprintable() else ""


def _code(error: object) -> str:
    if isinstance(error, dict):
        for name in ("code", "type"):
            value = error.get(name)
            if isinstance(value, str) and _WORD.fullmatch(value):
                return value
    return ""


def _reason(error: Exception) -> str:
    text = str(error)
    if "certificate" in text.lower() or "ssl" in text.lower():
        return "its TLS certificate is not trusted"
    return "its name cannot be resolved" if "resolved" in text else "it does not accept connections"
