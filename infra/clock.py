"""The system's clock and chance. The only place that touches them."""

import random
import secrets
import threading
import time
import uuid
from datetime import UTC, datetime

from core.clock import uuid7

_RANDOM_BITS = 74


class SystemClock:
    """Real time, real randomness; see `core.clock.Clock`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last_ms = 0
        self._last_bits = 0

    def now(self) -> datetime:
        """The current time in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()

    def random(self) -> float:
        """A uniform number in [0, 1)."""
        return random.random()  # jitter and sampling, not security

    def new_id(self) -> uuid.UUID:
        """A fresh UUIDv7, above all that this clock gave before: ids of one millisecond count up by random steps
        (RFC 9562, section 6.2, method 2)."""
        with self._lock:
            now_ms = time.time_ns() // 1_000_000
            bits = self._last_bits + 1 + secrets.randbits(32)
            if now_ms > self._last_ms or bits >= 1 << _RANDOM_BITS:
                self._last_ms = max(now_ms, self._last_ms + 1)
                bits = secrets.randbits(_RANDOM_BITS - 1)
            self._last_bits = bits
            return uuid7(self._last_ms, bits)
