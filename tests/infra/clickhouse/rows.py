"""Trace rows for tests: plain, deterministic, told apart by their index."""

import dataclasses
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from core.trace import TraceRow, TraceStatus

BASE = datetime(2025, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


def row(workspace: str, index: int = 0, **changes: Any) -> TraceRow:
    plain = TraceRow(
        attempt_id=uuid.uuid5(uuid.NAMESPACE_OID, f"{workspace}/{index}"),
        workspace=workspace,
        run_id=f"run-{index // 2}",
        workflow="orders",
        workflow_version=3,
        step_id="charge",
        item=-1,
        attempt=1 + index % 2,
        node="payment.charge",
        node_version="1.2.0",
        status=TraceStatus.OK,
        start=BASE + timedelta(seconds=index),
        latency_ms=10.0 + index,
    )
    return dataclasses.replace(plain, **changes)


def full_row(workspace: str) -> TraceRow:
    """Every field away from its default."""
    return row(
        workspace,
        900,
        item=4,
        arm="stripe",
        arm_probability=0.25,
        route_revision=2**40,
        assigned_arm="adyen",
        served_by="breaker",
        breaker="closed",
        rollout="0197-rollout",
        stage="canary",
        status=TraceStatus.ERROR,
        error_class="upstream_5xx",
        error_message="502 from 'provider'\n\\ ünïcode 🚚",
        error_fingerprint="abc123",
        queue_ms=0.25,
        cache_hit=True,
        inputs_hash="ff" * 16,
        cost_usd=1e-9,
        tokens_in=2**40,
        tokens_out=7,
        metrics={"quality": 0.5, "items": 3.0},
        numbers={"amount": -12.75},
        texts={"country": "de", "tab\tkey": "quote'd \\"},
        context={"tier": "gold"},
    )
