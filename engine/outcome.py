"""How an attempt ended, as a frozen fact, and the facts of it that go into the trace."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple

from core.errors import StepError
from core.json import JsonValue
from core.trace import TraceStatus
from engine.fingerprint import fingerprint
from engine.routing.choice import ArmChoice


@dataclass(frozen=True, slots=True)
class Usage:
    """What an attempt used up, as its node reports."""

    metrics: dict[str, float] = field(default_factory=dict)
    cost_usd: float = 0.0
    tokens_in: int = 0
    tokens_out: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """An attempt's end. `output` with its JSON text `encoded`, or `error`.

    Attributes:
        cached: the result was there already, and the node was not called.
        signal: id of the signal that it was given.
        lost: it ended with the worker that performed it; what it did is not known.
    """

    status: TraceStatus
    latency_ms: float
    output: JsonValue = None
    encoded: bytes | None = None
    error: StepError | None = None
    usage: Usage = Usage()
    cached: bool = False
    lost: bool = False
    signal: str = ""


_NOTHING: Mapping[str, Any] = MappingProxyType({})


class AttemptFacts(NamedTuple):
    """What is known of an attempt before it ends: identity, times, and what its input looks like.

    Attributes:
        choice: the arm that a route chose.
        timeout, retry_delay: seconds, where somebody set them: they vary a little, so that their effect can be learnt.
    """

    node: str
    node_version: str
    started_at: datetime
    queue_ms: float = 0.0
    inputs_hash: str = ""
    numbers: Mapping[str, float] = _NOTHING
    texts: Mapping[str, str] = _NOTHING
    choice: ArmChoice | None = None
    timeout: float | None = None
    retry_delay: float | None = None


def error_json(error: StepError, step_id: str = "") -> dict[str, Any]:
    """An error as expressions, events and the API show it."""
    shown: dict[str, Any] = {"class": error.error_class.value, "message": error.message}
    if step_id:
        shown["step"] = step_id
    if error.detail:
        shown["detail"] = error.detail
    if error.outcome_unknown:
        shown["outcome_unknown"] = True
    return shown


def trace_json(facts: AttemptFacts, outcome: Outcome) -> dict[str, Any]:
    """The part of a trace row that only the engine knows; stored in the event that ends the attempt.

    Empty facts are left out: there is one of these for each attempt.
    """
    usage = outcome.usage
    trace: dict[str, Any] = {
        "node": facts.node,
        "node_version": facts.node_version,
        "status": outcome.status.value,
        "start": facts.started_at.isoformat(),
        "latency_ms": round(outcome.latency_ms, 3),
    }
    optional = {
        "queue_ms": round(facts.queue_ms, 3),
        "inputs_hash": facts.inputs_hash,
        "numbers": facts.numbers,
        "texts": facts.texts,
        "metrics": _metrics(facts, usage),
        "cost_usd": usage.cost_usd,
        "tokens_in": usage.tokens_in,
        "tokens_out": usage.tokens_out,
        "cache_hit": outcome.cached,
    }
    trace.update((name, value) for name, value in optional.items() if value)
    if facts.choice is not None:
        trace.update(_route_json(facts.choice))
    if outcome.error is not None:
        trace["error_fingerprint"] = fingerprint(outcome.error.error_class.value, outcome.error.message)
    return trace


def _metrics(facts: AttemptFacts, usage: Usage) -> dict[str, float]:
    if facts.timeout is None and facts.retry_delay is None:
        return usage.metrics
    known = {"timeout_s": facts.timeout, "retry_delay_s": facts.retry_delay}
    return {**usage.metrics, **{name: round(value, 4) for name, value in known.items() if value is not None}}


def _route_json(choice: ArmChoice) -> dict[str, Any]:
    found: dict[str, Any] = {
        "arm": choice.arm,
        "arm_probability": round(choice.probability, 6),
        "route_revision": choice.revision,
        "assigned_arm": choice.assigned_arm,
        "served_by": choice.served_by.value,
    }
    if choice.breaker:
        found["breaker"] = choice.breaker
    return found
