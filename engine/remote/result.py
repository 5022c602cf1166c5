"""How a task ended, and the form in which a worker leaves that in the table of tasks."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from core.errors import ErrorClass, StepError
from core.json import JsonError, JsonValue, decode, encode
from core.trace import TraceStatus
from engine.outcome import Outcome, Usage


class RemoteStatus(StrEnum):
    """What became of a task."""

    ENDED = "ended"
    """The attempt has an outcome: good or bad."""
    LOST = "lost"
    """The worker died, or gave the attempt up half done: nobody knows how far it came."""
    CANCELLED = "cancelled"
    """It was withdrawn."""


@dataclass(frozen=True, slots=True)
class RemoteResult:
    """The end of a task. `outcome` and `started_at` (by the worker's clock) are there when it `ended`."""

    status: RemoteStatus
    outcome: Outcome | None = None
    started_at: datetime | None = None


_DEEPEST = 300
"""The worker has encoded it, which goes no deeper than 254."""

LOST = RemoteResult(RemoteStatus.LOST)

_STATUS = {"lost": LOST, "cancelled": RemoteResult(RemoteStatus.CANCELLED)}


def outcome_row(outcome: Outcome, started_at: datetime) -> tuple[bytes, bytes | None]:
    """An outcome as JSON: the facts, and the output apart from them.

    An error that has no JSON form is replaced by one that says so.
    """
    usage = asdict(outcome.usage)
    facts: dict[str, JsonValue] = {
        "status": outcome.status.value,
        "latency_ms": outcome.latency_ms,
        "started_at": started_at.isoformat(),
        "usage": usage,
        "error": None if outcome.error is None else _error_json(outcome.error),
    }
    try:
        return encode(facts), outcome.encoded
    except JsonError as error:
        sentence = f"what the attempt left behind cannot be stored as JSON: {error}"
        unknown = outcome.error is not None and outcome.error.outcome_unknown
        bad = StepError(ErrorClass.DECODE, sentence, outcome_unknown=unknown)
        return encode({**facts, "status": TraceStatus.ERROR.value, "usage": {}, "error": _error_json(bad)}), None


def result_of(row: Mapping[str, Any]) -> RemoteResult:
    """The result of a finished row: `status`, `outcome`, `output` (JSON, or None) and `gone` (the output is)."""
    if row["status"] in _STATUS:
        return _STATUS[row["status"]]
    facts = decode(row["outcome"])
    status = TraceStatus(facts["status"])
    output, encoded, error = None, None, _error_of(facts["error"])
    if row["gone"]:
        status = TraceStatus.ERROR
        error = StepError(
            ErrorClass.INTERNAL, "the output that the worker stored is gone or damaged", outcome_unknown=True
        )
    elif row["output"] is not None:
        encoded = row["output"]
        output = decode(encoded, _DEEPEST)
    usage = Usage(**facts["usage"])
    outcome = Outcome(status, facts["latency_ms"], output, encoded, error, usage)
    return RemoteResult(RemoteStatus.ENDED, outcome, datetime.fromisoformat(facts["started_at"]))


def _error_json(error: StepError) -> dict[str, JsonValue]:
    return {
        "class": error.error_class.value,
        "message": error.message,
        "retry_after": error.retry_after,
        "detail": error.detail,
        "outcome_unknown": error.outcome_unknown,
    }


def _error_of(facts: Mapping[str, Any] | None) -> StepError | None:
    if facts is None:
        return None
    return StepError(
        ErrorClass(facts["class"]),
        facts["message"],
        retry_after=facts["retry_after"],
        detail=facts["detail"],
        outcome_unknown=facts["outcome_unknown"],
    )
