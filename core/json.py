"""JSON values, and the bounds that keep hostile ones from hurting the process.

Every byte string from outside is decoded here: depth is bounded because recursive code further in (and the native
expression engine) crashes on very deep values.
"""

from typing import Any, TypeAlias

import orjson

JsonValue: TypeAlias = Any
"""null, bool, int, float, str, list of JsonValue, or dict from str to JsonValue."""

MAX_DEPTH = 100
"""Nesting that a value may have: objects and arrays inside each other."""


class JsonError(ValueError):
    """The text is not JSON, or breaks a bound. The message is fit for the caller's eyes."""


def decode(raw: bytes | bytearray | str, max_depth: int = MAX_DEPTH) -> JsonValue:
    """Parse JSON text.

    Raises:
        JsonError: malformed text, or nesting deeper than `max_depth`.
    """
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise JsonError(f"not valid JSON: {error}") from None
    text = raw.encode() if isinstance(raw, str) else raw
    # A value cannot be deeper than it has opening brackets, so most texts need no walk.
    if text.count(b"[") + text.count(b"{") > max_depth and depth(value, max_depth) > max_depth:
        raise JsonError(f"nested deeper than {max_depth} levels")
    return value


def encode(value: JsonValue) -> bytes:
    """Compact UTF-8 JSON. Raises JsonError when the value has no JSON form."""
    try:
        return orjson.dumps(value)
    except (TypeError, orjson.JSONEncodeError) as error:
        raise JsonError(str(error)) from None


def canonical(value: JsonValue) -> bytes:
    """JSON with sorted keys: equal values give equal bytes."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def depth(value: JsonValue, limit: int = MAX_DEPTH) -> int:
    """Nesting depth (a scalar has 0), counted without recursion and no further than `limit` + 1."""
    level = [value]
    deep = 0
    while deep <= limit:
        inner: list[JsonValue] = []
        found = False
        for one in level:
            if isinstance(one, dict):
                found = True
                inner.extend(one.values())
            elif isinstance(one, list):
                found = True
                inner.extend(one)
        if not found:
            return deep
        deep += 1
        level = inner
    return deep
