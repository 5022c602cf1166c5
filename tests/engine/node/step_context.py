"""A step's context made of real parts."""

import uuid
from typing import Any

from core.ids import RunId, StepId
from engine.node.context import StepContext, idempotency_key
from infra.clock import SystemClock

RUN = RunId(uuid.UUID(int=7))


class NoExpressions:
    async def evaluate(self, source: str, variables: Any) -> Any:
        raise AssertionError("this node evaluates nothing")


def make_context(**changes: Any) -> StepContext:
    step = StepId("charge")
    given: dict[str, Any] = {
        "run_id": RUN,
        "step_id": step,
        "item": -1,
        "attempt": 1,
        "idempotency_key": idempotency_key(RUN, step),
        "timeout": 10.0,
        "clock": SystemClock(),
        "evaluator": NoExpressions(),
    }
    return StepContext(**{**given, **changes})
