"""What the journal says of an attempt stands in its trace row."""

import uuid
from typing import Any

import orjson

from core.trace import TraceRow
from infra.shipper import _row


def shipped(**trace: Any) -> TraceRow:
    data = {
        "trace": {
            "node": "payment.charge",
            "node_version": "1.2.0",
            "status": "ok",
            "start": "2026-03-14T09:00:00+00:00",
            "latency_ms": 3.5,
            **trace,
        }
    }
    found = {
        "data": orjson.dumps(data),
        "context": b"{}",
        "run_id": uuid.UUID(int=1),
        "step_id": "charge",
        "item": -1,
        "attempt": 1,
        "workspace": "here",
        "workflow": "pay",
        "workflow_version": 1,
    }
    return _row(found)


def test_the_arm_of_an_attempt() -> None:
    said = {
        "arm": "adyen",
        "arm_probability": 0.9,
        "route_revision": 7,
        "assigned_arm": "stripe",
        "served_by": "breaker",
        "breaker": "closed",
        "cache_hit": True,
        "rollout": "r1",
        "stage": "canary",
    }
    row = shipped(**said)
    assert {name: getattr(row, name) for name in said} == said


def test_an_attempt_without_a_route() -> None:
    row = shipped()
    assert (row.arm, row.arm_probability, row.route_revision, row.served_by, row.cache_hit) == ("", 1.0, 0, "", False)
