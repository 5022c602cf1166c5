"""Frames between an evaluator and its killable host: a fixed head, then JSON.

Every request has a number, and its answer or death notice repeats it: a late answer can never be taken for another's.
"""

import struct
from enum import IntEnum

HEAD = struct.Struct("<IQB")
"""Length of the body in bytes, number of the request, FrameKind."""

MAX_REQUEST = 5_000_000
"""Bytes of an encoded request."""

MAX_ANSWER = 1_100_000
"""Bytes of an answer: a result of 1 MB and its head room."""


class FrameKind(IntEnum):
    """What a frame says."""

    REQUEST = 0
    VALUE = 1
    FAILURE = 2
    """Body: [class name of the exception, its message]."""
    DEATH = 3
    """Body: number of the signal that ended the worker, as JSON."""
    READY = 4


def pack(number: int, kind: FrameKind, body: bytes) -> bytes:
    """A frame's bytes."""
    return HEAD.pack(len(body), number, kind) + body
