"""The wire between a worker process and its parent: JSON messages, each behind its length."""

import struct
from typing import Any

import orjson

from core.json import JsonValue

HEADER = struct.Struct(">I")
MAX_FRAME = 64 * 1024 * 1024
"""Bytes that one message may have."""


def pack(message: dict[str, JsonValue]) -> bytes:
    """One message as bytes.

    Raises:
        ValueError: the message has no JSON form, or is larger than `MAX_FRAME`.
    """
    try:
        body = orjson.dumps(message)
    except TypeError as error:
        raise ValueError(str(error)) from None
    if len(body) > MAX_FRAME:
        raise ValueError(f"the value is larger than {MAX_FRAME // 1024 // 1024} MB")
    return HEADER.pack(len(body)) + body


def unpack(body: bytes) -> dict[str, Any]:
    """The message behind a header. Raises ValueError when it is not one."""
    message = orjson.loads(body)
    if not isinstance(message, dict):
        raise ValueError("a message must be an object")
    return message
