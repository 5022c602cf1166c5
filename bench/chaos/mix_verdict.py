"""Compares what the mix was to do with what it did."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.chaos.called import Call
from bench.chaos.mix_work import LIMIT, Job
from bench.chaos.verdict import Event, Findings, Kill, judge_calls, seconds

Row = Mapping[str, Any]


@dataclass
class MixFindings(Findings):
    """See `Findings`.

    Attributes:
        left_over: rows of what is held while runs go on, after all have ended.
        exceeded: limits that did not hold.
    """

    left_over: list[str] = field(default_factory=list)
    exceeded: list[str] = field(default_factory=list)
    all_runs: int = 0
    most: int = 0
    cache_hits: int = 0
    cron: int = 0

    @property
    def good(self) -> bool:
        return super().good and not (self.left_over or self.exceeded)


def judge_mix(
    wanted: Mapping[Job, str | None],
    runs: Sequence[Row],
    fired: Sequence[Row],
    journal: dict[str, list[Event]],
    calls: Sequence[Call],
    gauges: Mapping[str, int],
    findings: MixFindings,
) -> None:
    """Everything but the traces.

    Args:
        wanted: what was asked for, and under which run it was accepted; None when an event was to start it.
    """
    findings.all_runs = len(runs)
    _judge_runs(wanted, runs, journal, findings)
    _judge_firings(fired, runs, findings)
    _judge_children(runs, journal, findings)
    judge_calls(journal, calls, findings)
    for run_id, events in journal.items():
        _judge_events(run_id, events, findings)
    findings.most = gauges.get("step", 0)
    if findings.most > LIMIT:
        findings.exceeded.append(f"{findings.most} calls at once, where {LIMIT} are allowed")


def _judge_runs(
    wanted: Mapping[Job, str | None],
    runs: Sequence[Row],
    journal: Mapping[str, list[Event]],
    findings: MixFindings,
) -> None:
    """Each job has one run, and that has given the right thing."""
    found: dict[tuple[str, int], list[Row]] = {}
    for run in runs:
        given = json.loads(run["input"]) if run["input"] else {}
        if isinstance(given, dict) and "n" in given:
            found.setdefault((run["workflow"], given["n"]), []).append(run)
        if run["status"] != "completed":
            findings.lost.append(f"{run['workflow']} {run['id']} is {run['status']}: {run['error']}")
    for job, run_id in wanted.items():
        own = found.get((job.kind, job.n), [])
        if len(own) != 1:
            (findings.doubled if own else findings.lost).append(f"{job}: {len(own)} runs")
        elif run_id is not None and own[0]["id"] != run_id:
            findings.wrong.append(f"{job}: {run_id} was promised, {own[0]['id']} exists")
        elif own[0]["status"] == "completed" and (outputs := journal[own[0]["id"]][-1]["payload"]) != job.outputs:
            findings.wrong.append(f"{job} {own[0]['id']} gave {outputs} instead of {job.outputs}")


def _judge_firings(fired: Sequence[Row], runs: Sequence[Row], findings: MixFindings) -> None:
    """Each firing has one run, and each time of the clock one firing."""
    there = {run["id"] for run in runs}
    started = [one for one in fired if one["status"] == "started"]
    findings.lost += [f"firing {one['key']}: its run is nowhere" for one in started if one["run_id"] not in there]
    findings.doubled += [
        f"firing {one['key']} is {one['status']}" for one in fired if one["status"] in ("failed", "refused")
    ]
    times = Counter(one["scheduled_for"] for one in fired if one["scheduled_for"] is not None)
    findings.cron = len(times)
    findings.doubled += [f"fired {count} times for {at}" for at, count in times.items() if count > 1]


def _judge_children(runs: Sequence[Row], journal: Mapping[str, list[Event]], findings: MixFindings) -> None:
    """A child is promised once and exists once; what was not promised does not exist."""
    promised = Counter(
        one["data"]["run_id"] for events in journal.values() for one in events if one["type"] == "child_started"
    )
    ended = Counter(
        (run_id, one["step_id"], one["item"], one["data"]["index"])
        for run_id, events in journal.items()
        for one in events
        if one["type"] == "child_ended"
    )
    nested = {run_id for run_id, events in journal.items() if "parent" in events[0]["data"]}
    findings.lost += [f"child {one} was promised, and does not exist" for one in promised.keys() - nested]
    findings.doubled += [f"child {one} was not promised" for one in nested - promised.keys()]
    findings.doubled += [f"{one}: {count} children" for one, count in promised.items() if count > 1]
    findings.doubled += [f"{one}: ended {count} times" for one, count in ended.items() if count > 1]


def _judge_events(run_id: str, events: Sequence[Event], findings: MixFindings) -> None:
    if [one["seq"] for one in events] != list(range(1, len(events) + 1)):
        findings.wrong.append(f"{run_id}: its events have a gap")
    arms: dict[tuple[str, int], set[str]] = {}
    for one in events:
        trace = one["data"].get("trace", {})
        findings.cache_hits += bool(trace.get("cache_hit"))
        if "arm" in trace:
            arms.setdefault((one["step_id"], one["item"]), set()).add(trace["arm"])
    changed = [(step, found) for (step, _), found in arms.items() if len(found) > 1]
    findings.wrong += [f"{run_id}:{step} changed its arm: {found}" for step, found in changed]


def recovery(journal: Mapping[str, list[Event]], kills: Sequence[Kill]) -> list[tuple[float, float]]:
    """For each kill: seconds until the first, and until the last run was taken up."""
    taken = sorted(
        seconds(one["at"]) for events in journal.values() for one in events if one["type"] == "run_recovered"
    )
    found = []
    for index, kill in enumerate(kills):
        until = kills[index + 1].at if index + 1 < len(kills) else float("inf")
        own = [at - kill.at for at in taken if kill.at < at < until]
        if own:
            found.append((own[0], own[-1]))
    return found
