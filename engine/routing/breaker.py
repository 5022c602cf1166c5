"""The circuit breaker of one arm: closed, open, half open. Pure: the time is an argument.

closed ── too many failures ──▶ open ── cooldown over ──▶ half open
  ▲                              ▲                           │ one probe
  │                              └── fails: cooldown × 2 ────┤
  └────────────────────── succeeds ──────────────────────────┘
"""

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

from core.errors import ErrorClass
from core.route import Breaker

_BUCKETS = 20
"""Parts of the sliding window; a call counts for the window's length, give or take one of them."""

_NOT_ITS_FAULT = frozenset(
    {
        ErrorClass.INVALID_INPUT,
        ErrorClass.UPSTREAM_4XX,
        ErrorClass.EXPRESSION,
        ErrorClass.POLICY,
        ErrorClass.CANCELLED,
        ErrorClass.WORKER_LOST,
    }
)
"""What the caller or we ourselves did wrong says nothing about the arm."""


class BreakerState(StrEnum):
    """What a breaker lets through."""

    CLOSED = "closed"
    """Everything."""
    OPEN = "open"
    """Nothing, until the cooldown is over."""
    HALF_OPEN = "half_open"
    """One probe."""


class Verdict(StrEnum):
    """What an attempt says about the arm that served it."""

    GOOD = "good"
    BAD = "bad"
    NOTHING = "nothing"


def verdict(error_class: str | None) -> Verdict:
    """What an attempt that ended so says about its arm. None is success; a class that we do not know counts."""
    if error_class is None:
        return Verdict.GOOD
    return Verdict.NOTHING if error_class in _NOT_ITS_FAULT else Verdict.BAD


@dataclass(slots=True)
class Window:
    """Calls and failures of the last while."""

    _buckets: deque[list[int]] = field(default_factory=deque)

    def add(self, failed: bool, length: float, now: float) -> None:
        """Count a call that ended at `now` (seconds)."""
        at = self._expire(length, now)
        if not self._buckets or self._buckets[-1][0] != at:
            self._buckets.append([at, 0, 0])
        self._buckets[-1][1] += 1
        self._buckets[-1][2] += failed

    def totals(self, length: float, now: float) -> tuple[int, int]:
        """Calls and failures of the last `length` seconds."""
        self._expire(length, now)
        return sum(one[1] for one in self._buckets), sum(one[2] for one in self._buckets)

    def clear(self) -> None:
        """Forget all calls."""
        self._buckets.clear()

    def _expire(self, length: float, now: float) -> int:
        at = int(now / length * _BUCKETS)
        # A window whose length was changed counts anew: its buckets are numbered otherwise.
        while self._buckets and not at - _BUCKETS < self._buckets[0][0] <= at:
            self._buckets.popleft()
        return at


@dataclass(frozen=True, slots=True)
class Open:
    """How a breaker is open: from when a probe may be made, and what had led to it."""

    until: float
    cooldown: float
    calls: int
    failures: int

    @property
    def failure_rate(self) -> float:
        """Share of the calls that had failed."""
        return self.failures / self.calls if self.calls else 1.0


@dataclass(slots=True)
class Circuit:
    """One arm's breaker. Times are seconds on a clock that never goes back."""

    opened: Open | None = None
    window: Window = field(default_factory=Window)

    def state(self, now: float) -> BreakerState:
        """What it lets through now."""
        if self.opened is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now < self.opened.until else BreakerState.HALF_OPEN

    def note(self, rule: Breaker, failed: bool, now: float) -> bool:
        """Count an ordinary call. Returns whether that opens the breaker.

        While it is open, calls that had begun before say nothing new.
        """
        if self.opened is not None:
            return False
        self.window.add(failed, rule.window, now)
        calls, failures = self.window.totals(rule.window, now)
        if not failed or calls < rule.min_calls or failures < rule.failure_rate * calls:
            return False
        self.open(Open(now + rule.cooldown, rule.cooldown, calls, failures))
        return True

    def probed(self, rule: Breaker, failed: bool, now: float) -> None:
        """Take the result of a probe: closed again, or open for twice as long as before."""
        if not failed:
            self.close()
        elif self.opened is not None:
            cooldown = min(self.opened.cooldown * 2, max(rule.max_cooldown, rule.cooldown))
            self.open(Open(now + cooldown, cooldown, self.opened.calls, self.opened.failures))

    def open(self, opened: Open) -> None:
        """Open it."""
        self.opened = opened
        self.window.clear()

    def close(self) -> None:
        """Close it; what was before is forgotten."""
        self.opened = None
        self.window.clear()
