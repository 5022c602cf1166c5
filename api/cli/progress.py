"""Where a run stands, from its events: the part that decides, apart from the part that shows."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_WORDS = {
    "attempt_succeeded": "completed",
    "attempt_cancelled": "cancelled",
    "step_completed": "completed",
    "step_failed": "failed",
    "step_skipped": "skipped",
}
_WAITS = ("step_waiting", "plan_proposed")
_RUN_WORDS = {"run_completed": "completed", "run_failed": "failed", "run_cancelled": "cancelled"}
_FAILED_WORDS = {"retry": "waiting", "ask": "outcome_unknown", "fail": "failed"}
FINAL = frozenset({"completed", "failed", "cancelled", "skipped"})


@dataclass(slots=True)
class StepProgress:
    """One step as a person follows it. `began` is on this machine's monotonic clock, in seconds."""

    id: str
    status: str = "queued"
    attempts: int = 0
    began: float | None = None
    milliseconds: float | None = None
    detail: str = ""
    size: int | None = None
    finished: int = 0


@dataclass(slots=True)
class RunProgress:
    """A run as a person follows it."""

    steps: dict[str, StepProgress] = field(default_factory=dict)
    status: str = "running"

    def apply(self, event: Mapping[str, Any]) -> StepProgress | None:
        """Advance by one event; gives the step whose line has changed, if any."""
        kind = event["type"]
        self.status = _RUN_WORDS.get(kind, self.status)
        if "step_id" not in event:
            return None
        if kind == "step_redriven":
            self._again(event["data"]["steps"])
        step = self.steps.setdefault(event["step_id"], StepProgress(event["step_id"]))
        before = (step.status, step.attempts, step.finished)
        if kind == "foreach_expanded":
            step.size, step.status, step.began = event["data"]["size"], "running", time.monotonic()
        elif "item" in event:
            _element(step, kind, event["data"])
        else:
            _task(step, kind, event)
        return step if (step.status, step.attempts, step.finished) != before else None

    def _again(self, step_ids: Sequence[str]) -> None:
        """Steps run again, and with them the run goes on."""
        self.status = "running"
        for one in step_ids:
            self.steps[one] = StepProgress(one, attempts=self.steps[one].attempts if one in self.steps else 0)


def _task(step: StepProgress, kind: str, event: Mapping[str, Any]) -> None:
    data = event["data"]
    step.attempts = max(step.attempts, event.get("attempt", 0))
    if kind == "attempt_started":
        waits = data.get("due_at") or data.get("wait")
        step.status = "waiting" if waits else "running"
        step.detail = f"until {data['due_at']}" if data.get("due_at") else _awaited(data.get("wait"))
        step.began = time.monotonic()
        return
    if kind in _WAITS:
        step.status, step.detail = "waiting", data.get("reason", "approval")
        return
    if kind == "step_resolved":
        step.status = {"succeeded": "completed", "failed": "failed"}.get(data["outcome"], "queued")
        step.detail = f"a person said: {data['outcome']}"
    elif kind == "attempt_failed":
        step.status = _FAILED_WORDS[data["next"]]
        step.detail = _error(data["error"])
    elif kind in _WORDS:
        step.status = _WORDS[kind]
        step.detail = data.get("reason", "") or _error(data.get("error"))
    else:
        return  # it changes nothing that is shown
    _measure(step, data)


def _awaited(wait: Mapping[str, Any] | None) -> str:
    return "" if wait is None else " ".join(filter(None, (wait["kind"], wait.get("name"), wait.get("message"))))


def _element(step: StepProgress, kind: str, data: Mapping[str, Any]) -> None:
    if kind == "attempt_started":
        step.attempts += 1
    elif kind == "attempt_failed":
        step.detail = _error(data["error"])
        step.finished += data["next"] == "fail"
        step.status = "outcome_unknown" if data["next"] == "ask" else step.status
    elif kind == "step_resolved":
        step.finished += data["outcome"] != "retry"
        step.status = "running"
    elif kind in _WORDS:
        step.finished += 1


def _measure(step: StepProgress, data: Mapping[str, Any]) -> None:
    if "trace" in data:
        step.milliseconds = data["trace"]["latency_ms"]
    elif step.began is not None:
        step.milliseconds = (time.monotonic() - step.began) * 1000


def _error(error: Mapping[str, Any] | None) -> str:
    return f"{error['class']}: {error['message']}" if error else ""
