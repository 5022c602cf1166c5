"""Time, identity and chance as arguments: business code gets them from here and never from the system."""

import uuid
from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """The one source of time, ids and randomness. `infra.clock.SystemClock` is the real one."""

    def now(self) -> datetime:
        """The current time, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back; only differences mean anything."""
        ...

    def random(self) -> float:
        """A uniform number in [0, 1)."""
        ...

    def new_id(self) -> uuid.UUID:
        """A fresh UUIDv7 (RFC 9562): ordered by time of creation."""
        ...


def uuid7(unix_ms: int, random_bits: int) -> uuid.UUID:
    """A UUIDv7 from milliseconds since the epoch and 74 random bits (RFC 9562, section 5.7)."""
    value = (unix_ms & 0xFFFF_FFFF_FFFF) << 80
    value |= 0x7000 << 64
    value |= ((random_bits >> 62) & 0xFFF) << 64
    value |= 0x8000_0000_0000_0000
    value |= random_bits & 0x3FFF_FFFF_FFFF_FFFF
    return uuid.UUID(int=value)
