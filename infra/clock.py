"""The system's clock and chance. The only place that touches them."""

import random
import secrets
import time
import uuid
from datetime import UTC, datetime

from core.clock import uuid7


class SystemClock:
    """Real time, real randomness; see `core.clock.Clock`."""

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
        """A fresh UUIDv7."""
        return uuid7(time.time_ns() // 1_000_000, secrets.randbits(74))
