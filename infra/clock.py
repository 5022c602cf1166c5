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
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def random(self) -> float:
        return random.random()  # jitter and sampling, not security

    def new_id(self) -> uuid.UUID:
        return uuid7(time.time_ns() // 1_000_000, secrets.randbits(74))
