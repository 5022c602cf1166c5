"""The opaque place in a list of traces from which the next page goes on."""

import base64
import binascii
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from core.errors import Fault, Invalid

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BYTES = 24


@dataclass(frozen=True, slots=True)
class Position:
    """The last row of a page."""

    start: datetime
    attempt_id: uuid.UUID


def encode_cursor(position: Position) -> str:
    """Text that a URL carries unchanged."""
    microseconds = (position.start - _EPOCH) // timedelta(microseconds=1)
    raw = microseconds.to_bytes(8, "big", signed=True) + position.attempt_id.bytes
    return base64.urlsafe_b64encode(raw).decode()


def decode_cursor(text: str) -> Position:
    """The reverse of `encode_cursor`.

    Raises:
        Invalid: the text was not made by it.
    """
    try:
        raw = base64.b64decode(text.encode(), altchars=b"-_", validate=True)
        if len(raw) != _BYTES:
            raise ValueError("wrong length")
        start = _EPOCH + timedelta(microseconds=int.from_bytes(raw[:8], "big", signed=True))
    except (ValueError, OverflowError, binascii.Error):
        fault = Fault(
            "$.cursor", "bad_cursor", "the cursor is not one that this list has given; leave it out to begin anew"
        )
        raise Invalid("the cursor is not valid", [fault]) from None
    return Position(start, uuid.UUID(bytes=raw[8:]))
