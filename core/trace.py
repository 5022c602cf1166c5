"""The trace record: one row for each attempt of a step. It is all that the learning loop ever sees."""

import hashlib
import uuid
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class TraceStatus(StrEnum):
    """How an attempt ended."""

    OK = "ok"
    ERROR = "error"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class TraceRow:
    """One attempt.

    Attributes:
        attempt_id: unique for ever; makes delivery idempotent.
        run_id: text, because imported traces bring their own ids.
        item: position inside a `foreach`, -1 when the step is not one.
        attempt: 1 for the first.
        arm: which alternative of the node's route served the attempt.
        arm_probability: with which probability `assigned_arm` was drawn.
        route_revision: by which revision of the node's route; 0 without one.
        assigned_arm: which alternative was drawn. Another one serves when it fails, or when its breaker is open; such
            an attempt must not be compared as if it had been assigned.
        served_by: why `arm` serves: drawn, fallback, breaker, probe or least_bad; empty without a route.
        breaker: state of the serving arm's breaker when the attempt began; empty without one.
        start: when the attempt began, UTC.
        latency_ms: from start to end; for a cancelled call the time that it had taken until then.
        queue_ms: how long the attempt was ready before it started.
        inputs_hash: equal inputs have equal hashes.
        numbers: numeric features of the input (sizes, lengths, values).
        texts: low-cardinality text features of the input; never a secret, never free text.
        context: what the caller said about the run's situation.
        metrics: figures that the node reports about itself.
    """

    attempt_id: uuid.UUID
    workspace: str
    run_id: str
    workflow: str
    workflow_version: int
    step_id: str
    item: int
    attempt: int
    node: str
    node_version: str
    status: TraceStatus
    start: datetime
    latency_ms: float
    arm: str = ""
    arm_probability: float = 1.0
    route_revision: int = 0
    assigned_arm: str = ""
    served_by: str = ""
    breaker: str = ""
    rollout: str = ""
    stage: str = ""
    error_class: str = ""
    error_message: str = ""
    error_fingerprint: str = ""
    queue_ms: float = 0.0
    cache_hit: bool = False
    inputs_hash: str = ""
    cost_usd: float = 0.0
    tokens_in: int = 0
    tokens_out: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    context: dict[str, str] = field(default_factory=dict)


def attempt_id(run_id: str, step_id: str, item: int, attempt: int) -> uuid.UUID:
    """The same attempt always has the same id, so however often it is delivered it is known again."""
    name = f"{run_id}\x1f{step_id}\x1f{item}\x1f{attempt}"
    digest = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=16).digest(), "big")
    # A UUIDv8 (RFC 9562, section 5.8): the version and variant bits are fixed, the rest is ours.
    return uuid.UUID(int=(digest & ~(0xF << 76) & ~(0x3 << 62)) | (0x8 << 76) | (0x2 << 62))
