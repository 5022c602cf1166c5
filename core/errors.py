"""Errors that carry their own handling.

RefluxError                 something a caller can be told
├── NotFound                404
├── Conflict                409
├── Invalid                 422, with faults
├── Forbidden               403
└── Unavailable             503, try again later
StepError                   an attempt of a step failed; says its class and whether a retry can help
"""

from dataclasses import dataclass
from enum import StrEnum


class ErrorClass(StrEnum):
    """Why an attempt failed, in the terms that retry policies and the Critic use."""

    NETWORK = "network"
    TIMEOUT = "timeout"
    RATE_LIMITED = "rate_limited"
    AUTH = "auth"
    UPSTREAM_4XX = "upstream_4xx"
    UPSTREAM_5XX = "upstream_5xx"
    DECODE = "decode"
    EXPRESSION = "expression"
    INVALID_INPUT = "invalid_input"
    POLICY = "policy"
    WORKER_LOST = "worker_lost"
    CANCELLED = "cancelled"
    INTERNAL = "internal"


TRANSIENT: frozenset[ErrorClass] = frozenset(
    {ErrorClass.NETWORK, ErrorClass.TIMEOUT, ErrorClass.RATE_LIMITED, ErrorClass.UPSTREAM_5XX}
)
"""Classes for which another attempt may well succeed; the default of a retry policy's `on`."""


class StepError(Exception):
    """An attempt failed in a way that the workflow can react to.

    Args:
        error_class: what kind of failure.
        message: one sentence for a person; never contains a secret.
        retry_after: seconds that the other side asked us to wait, if it did.
        detail: small JSON facts (for example the HTTP status), safe to store.
        outcome_unknown: true when the effect may have happened although the attempt failed.
    """

    def __init__(
        self,
        error_class: ErrorClass,
        message: str,
        *,
        retry_after: float | None = None,
        detail: dict[str, str | int | float | bool | None] | None = None,
        outcome_unknown: bool = False,
    ) -> None:
        super().__init__(message)
        self.error_class = error_class
        self.message = message
        self.retry_after = retry_after
        self.detail = detail or {}
        self.outcome_unknown = outcome_unknown


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with an input.

    Attributes:
        path: where, as a JSON path (`$.steps[2].with.url`).
        code: stable snake_case name of the kind of fault.
        message: a sentence that says what is wrong and how to mend it.
        suggestion: the nearest right name, where one exists.
    """

    path: str
    code: str
    message: str
    suggestion: str | None = None


class RefluxError(Exception):
    """A failure that the caller is told about. `status` is its HTTP form (RFC 9110)."""

    status = 500
    title = "Internal error"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class NotFound(RefluxError):
    """The thing does not exist, or not for this caller."""

    status = 404
    title = "Not found"


class Conflict(RefluxError):
    """The thing's present state does not allow this."""

    status = 409
    title = "Conflict"


class Forbidden(RefluxError):
    """The caller's role does not allow this."""

    status = 403
    title = "Forbidden"


class Unavailable(RefluxError):
    """A part that is needed does not answer now; the same call may work later."""

    status = 503
    title = "Unavailable"


class Invalid(RefluxError):
    """The input is wrong; every fault is listed."""

    status = 422
    title = "Invalid input"

    def __init__(self, detail: str, faults: list[Fault]) -> None:
        super().__init__(detail)
        self.faults = faults
