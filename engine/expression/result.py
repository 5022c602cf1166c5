"""Results of the native library as JSON values, within bounds."""

import base64
from datetime import datetime, timedelta
from typing import Any

import cel

from core.json import MAX_DEPTH, JsonError, JsonValue, encode
from core.json import depth as depth_of

MAX_RESULT = 1_000_000
"""Bytes of JSON that a result may have."""


class BadResult(Exception):
    """The expression gave something that cannot be used; the message says what and why."""


def to_json(value: Any) -> JsonValue:
    """Turn a native result into a JSON value.

    Timestamps become RFC 3339 text, durations seconds (float), bytes base64 text, an empty optional null.

    Raises:
        BadResult: no JSON form (NaN, infinity, an integer beyond 64 bits), nested too deep.
    """
    return _convert(value, MAX_DEPTH)


def _convert(value: Any, levels: int) -> JsonValue:
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    if kind is int:
        return check_int(value)
    if kind is float:
        return check_float(value)
    if kind is list or kind is dict:
        if levels == 0:
            raise BadResult(f"the result is nested deeper than {MAX_DEPTH} levels")
        if kind is list:
            return [_convert(one, levels - 1) for one in value]
        return {_key(key): _convert(one, levels - 1) for key, one in value.items()}
    return _convert_rare(value, levels)


def _convert_rare(value: Any, levels: int) -> JsonValue:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, cel.OptionalValue):
        return _convert(value.value(), levels) if value.has_value() else None
    raise BadResult(f"the result is a {type(value).__name__}, which has no JSON form")


def _key(key: Any) -> str:
    if isinstance(key, str):
        return key
    return str(key).lower() if isinstance(key, bool) else str(key)


def check_int(value: int) -> int:
    """The integer itself. Raises BadResult beyond 64 bits."""
    if -(2**63) <= value < 2**64:
        return value
    raise BadResult("the result is an integer beyond 64 bits")


def check_float(value: float) -> float:
    """The number itself. Raises BadResult for NaN and infinities, which JSON does not have."""
    if value - value == 0.0:
        return value
    raise BadResult(f"the result is {value}, which JSON cannot hold; check for a division by 0.0")


def size_of(value: JsonValue) -> int:
    """Bytes of a value as JSON, roughly for scalars.

    Raises:
        BadResult: larger than MAX_RESULT, nested deeper than MAX_DEPTH, or without JSON form.
    """
    if value is None or isinstance(value, bool):
        return 8
    if isinstance(value, int):
        check_int(value)
        return 8
    if isinstance(value, float):
        check_float(value)
        return 8
    if isinstance(value, str):
        size = len(value) if value.isascii() else len(value.encode(errors="surrogatepass"))
    else:
        size = _container_size(value)
    if size > MAX_RESULT:
        raise BadResult(
            f"the result is larger than {MAX_RESULT} bytes; keep large data in steps, pass only what is used"
        )
    return size


def _container_size(value: JsonValue) -> int:
    try:
        text = encode(value)
    except JsonError as error:
        if "ecursion" in str(error):
            raise BadResult(f"the result is nested deeper than {MAX_DEPTH} levels") from None
        raise BadResult(f"the result has no JSON form: {error}") from None
    # A value cannot be deeper than it has brackets, so most need no walk.
    too_deep = text.count(b"[") + text.count(b"{") > MAX_DEPTH and depth_of(value) > MAX_DEPTH
    if too_deep:
        raise BadResult(f"the result is nested deeper than {MAX_DEPTH} levels")
    return len(text)


def as_text(value: JsonValue) -> str:
    """A value as it stands inside a longer text: strings as they are, null as nothing, the rest as compact JSON."""
    if isinstance(value, str):
        return value
    return "" if value is None else encode(value).decode()
