"""When a provider wants to be asked again."""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

MAX_SECONDS = 86_400.0

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_SPAN = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h|d)")
_LIMITS = ("requests", "tokens", "input-tokens", "output-tokens", "project-tokens")


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds to wait, at most a day; None when the headers do not say.

    In this order: `retry-after-ms` (OpenAI), `retry-after` (seconds or an HTTP date), and when the provider's own
    limits are used up the latest time at which one is renewed (`x-ratelimit-reset-tokens: 6m0s` with OpenAI,
    `anthropic-ratelimit-tokens-reset: 2026-01-01T00:00:00Z` with Anthropic).

    Args:
        headers: names in lower case, or a mapping that does not care.
        now: what dates are compared with.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return _bounded(milliseconds / 1_000)
    told = headers.get("retry-after")
    if told is not None:
        seconds = _number(told)
        return _bounded(seconds if seconds is not None else _until(told, now))
    waits = [wait for limit in _LIMITS for wait in _resets(headers, limit, now) if wait is not None]
    return max(waits, default=None)


def _resets(headers: Mapping[str, str], limit: str, now: datetime) -> tuple[float | None, float | None]:
    """When a limit that is used up is renewed, as OpenAI and as Anthropic say it."""
    openai = anthropic = None
    if headers.get(f"x-ratelimit-remaining-{limit}") == "0":
        openai = _bounded(_span(headers.get(f"x-ratelimit-reset-{limit}", "")))
    if headers.get(f"anthropic-ratelimit-{limit}-remaining") == "0":
        anthropic = _bounded(_until(headers.get(f"anthropic-ratelimit-{limit}-reset", ""), now))
    return openai, anthropic


def _bounded(seconds: float | None) -> float | None:
    return None if seconds is None else min(max(seconds, 0.0), MAX_SECONDS)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _span(text: str) -> float | None:
    parts = _SPAN.findall(text.strip())
    if not parts or "".join(number + unit for number, unit in parts) != text.strip():
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def _until(text: str, now: datetime) -> float | None:
    text = text.strip()
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        try:
            moment = parsedate_to_datetime(text)
        except (ValueError, OverflowError):
            return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - now).total_seconds()
