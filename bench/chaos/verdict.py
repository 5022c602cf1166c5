"""Compares what was promised with what happened: the journal, the called server's log, and the traces."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from bench.chaos.called import Call

_ENDS = ("attempt_succeeded", "attempt_failed", "attempt_cancelled")
_ATTEMPTS = ("attempt_started", *_ENDS)

Event = dict[str, Any]


@dataclass
class Findings:
    """What is wrong; every list is empty when nothing is.

    Attributes:
        lost: accepted runs that did not complete, with what became of them.
        doubled: steps that were done again although that was not allowed.
        wrong: runs whose output is not the right one.
    """

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    traces_missing: list[str] = field(default_factory=list)
    traces_double: list[str] = field(default_factory=list)
    attempts: int = 0
    lost_attempts: int = 0

    @property
    def good(self) -> bool:
        return not (self.lost or self.doubled or self.wrong or self.traces_missing or self.traces_double)


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill: when, and when the server was ready again. Seconds since the epoch."""

    at: float
    ready: float


def judge_calls(journal: dict[str, list[Event]], calls: Sequence[Call], findings: Findings) -> None:
    """A call may be repeated only for an attempt that was lost with its worker, and never after a recorded success."""
    by_key: defaultdict[str, list[Call]] = defaultdict(list)
    for call in calls:
        by_key[call.key].append(call)
    for run_id, events in journal.items():
        for key, own in _by_task(run_id, events).items():
            lost = sum(1 for one in own if one["type"] == "attempt_failed" and one["data"].get("lost"))
            done = [one for one in own if one["type"] == "attempt_succeeded"]
            findings.lost_attempts += lost
            if len(done) > 1:
                findings.doubled.append(f"{key}: {len(done)} recorded successes")
            received = by_key.pop(key, [])
            if len(received) > 1 + lost:
                findings.doubled.append(f"{key}: {len(received)} calls with {lost} lost attempts")
            if done and any(call.at > seconds(done[0]["at"]) for call in received):
                findings.doubled.append(f"{key}: called after its recorded success")
    findings.doubled += [f"{key}: called by a run that nobody knows" for key in by_key]


def judge_traces(journal: dict[str, list[Event]], traces: Sequence[dict[str, Any]], findings: Findings) -> None:
    """Exactly one row for each attempt that ended, and none besides."""
    wanted: Counter[tuple[str, str, int, int]] = Counter()
    for run_id, events in journal.items():
        wanted.update(
            (run_id, one["step_id"], one.get("item", -1), one["attempt"]) for one in events if one["type"] in _ENDS
        )
        begun = {(one["step_id"], one.get("item", -1), one["attempt"]) for one in events if one["type"] in _ATTEMPTS}
        wanted.update((run_id, *one) for one in begun if (run_id, *one) not in wanted)
    found = Counter((one["run_id"], one["step_id"], one.get("item", -1), one["attempt"]) for one in traces)
    findings.attempts = sum(wanted.values())
    findings.traces_missing = [":".join(map(str, one)) for one in (wanted - found).elements()]
    findings.traces_double = [":".join(map(str, one)) for one in (found - wanted).elements()]


def first_progress(journal: dict[str, list[Event]], kills: Sequence[Kill]) -> list[tuple[float, float]]:
    """For each kill: seconds until the first, and until the last of the interrupted runs went on.

    A run that the next kill found still idle is left out there, and counts from that kill.
    """
    found: list[tuple[float, float]] = []
    times = {
        run_id: sorted(seconds(one["at"]) for one in events if one["type"] != "run_recovered")
        for run_id, events in journal.items()
    }
    for index, kill in enumerate(kills):
        until = kills[index + 1].at if index + 1 < len(kills) else float("inf")
        waits: list[float] = []
        for events in times.values():
            if events[0] < kill.at < events[-1]:
                after = next(one for one in events if one > kill.at)
                if after < until:
                    waits.append(after - kill.at)
        if waits:
            found.append((min(waits), max(waits)))
    return found


def table(runs: int, kills: Sequence[Kill], findings: Findings, progress: Sequence[tuple[float, float]]) -> str:
    """The result for a person."""
    ready = [one.ready - one.at for one in kills]
    rows = [
        ("runs accepted", str(runs)),
        ("kills", str(len(kills))),
        ("lost", str(len(findings.lost))),
        ("wrong output", str(len(findings.wrong))),
        ("doubled", str(len(findings.doubled))),
        ("attempts", str(findings.attempts)),
        ("attempts lost with the server, repeated", str(findings.lost_attempts)),
        ("traces missing", str(len(findings.traces_missing))),
        ("traces double", str(len(findings.traces_double))),
        ("kill to ready, s (p50 / max)", _spread(ready)),
        ("kill to first run's progress, s (p50 / max)", _spread([first for first, _ in progress])),
        ("kill to last run's progress, s (p50 / max)", _spread([last for _, last in progress])),
    ]
    return "\n".join(f"{name:<46}{value:>18}" for name, value in rows)


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} / {max(values):.2f}" if values else "-"


def _by_task(run_id: str, events: Sequence[Event]) -> dict[str, list[Event]]:
    tasks: defaultdict[str, list[Event]] = defaultdict(list)
    for event in events:
        if event["type"] in _ATTEMPTS:
            item = event.get("item", -1)
            tasks[f"{run_id}:{event['step_id']}" + (f":{item}" if item >= 0 else "")].append(event)
    return tasks


def seconds(text: str) -> float:
    """Since the epoch, of a time as the API writes it."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
