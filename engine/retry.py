"""Whether and when a failed attempt is repeated. A decision, apart from its execution; pure."""

from dataclasses import dataclass

from core.errors import TRANSIENT, ErrorClass
from core.manifest import Effect
from core.spec import Retry

MAX_LOST = 10
"""How often an attempt may be lost with its worker before the step fails: a step that kills its process is poison."""

MAX_RETRY_AFTER = 3600.0
"""Longest `Retry-After` in seconds that is honoured; nobody should be able to park a run for a year."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """See `core.spec.Retry`; times in seconds. `chosen`: whether the spec names the error classes itself."""

    max_attempts: int = 1
    initial: float = 1.0
    factor: float = 2.0
    max_delay: float = 30.0
    jitter: bool = True
    on: frozenset[ErrorClass] = TRANSIENT
    chosen: bool = False

    @classmethod
    def of(cls, retry: Retry | None) -> "RetryPolicy":
        """The policy that a spec asks for; without one a step has a single attempt."""
        if retry is None:
            return cls()
        return cls(
            max_attempts=retry.max_attempts,
            initial=retry.initial,
            factor=retry.factor,
            max_delay=retry.max,
            jitter=retry.jitter,
            on=retry.on,
            chosen="on" in retry.model_fields_set,
        )

    def repeats(self, error_class: ErrorClass, effect: Effect, outcome_unknown: bool) -> bool:
        """Whether a failure of this kind may be repeated at all.

        An unsafe effect that may have happened is repeated only if the spec names the error class: by default nobody
        is charged twice.
        """
        doubtful = effect is Effect.UNSAFE and outcome_unknown
        return error_class in self.on and (self.chosen or not doubtful)


def delay_before_next(
    policy: RetryPolicy, tries: int, error_class: ErrorClass, retry_after: float | None, chance: float
) -> float | None:
    """Seconds to wait before the next attempt, or None when there shall be none.

    Exponential backoff with "equal jitter" (half fixed, half drawn; AWS Architecture Blog, "Exponential Backoff And
    Jitter", 2015), so that clients which failed together do not return together.

    Args:
        tries: attempts that have failed, without those lost with their worker.
        retry_after: what the other side asked for (RFC 9110, section 10.2.3), in seconds.
        chance: a uniform number in [0, 1).
    """
    if tries >= policy.max_attempts or error_class not in policy.on:
        return None
    try:
        delay = min(policy.initial * policy.factor ** (tries - 1), policy.max_delay)
    except OverflowError:
        delay = policy.max_delay
    if policy.jitter:
        delay *= 0.5 + 0.5 * chance
    if retry_after is not None:
        delay = max(delay, min(retry_after, MAX_RETRY_AFTER))
    return delay
