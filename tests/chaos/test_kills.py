"""`kill -9` while it works: nothing accepted is lost, nothing recorded is done again, every attempt is one trace."""

import asyncio
import time
from typing import Any

import pytest

from bench.chaos.called import Call, CalledServer
from bench.chaos.server import Client, RefluxServer
from bench.chaos.trial import Plan, Trial
from bench.chaos.verdict import Findings, judge_calls, judge_traces
from engine.retry import MAX_LOST

pytestmark = pytest.mark.chaos

FINAL = {"completed", "failed", "cancelled"}


async def test_kills_under_load(server: RefluxServer, called: CalledServer) -> None:
    plan = Plan(runs=60, steps=10, kills=7, seed=11, pause=(0.0, 1.0), database_kills=2)
    result = await Trial(server, called, plan).run()
    print(result)
    assert result.findings.good, result.findings
    assert (result.runs, len(result.kills)) == (60, 7)
    assert result.findings.lost_attempts > 0, "no kill hit an attempt in flight: the test shows nothing"


async def call_hanging(client: Client, called: CalledServer, name: str) -> str:
    """A run whose unsafe call is in flight."""
    steps: list[dict[str, Any]] = [
        {"id": "charge", "node": "http.request", "with": {"method": "POST", "url": f"{called.url}/hang"}},
        {"id": "after", "node": "transform.map", "needs": ["charge"], "with": {"value": "after"}},
    ]
    outputs = {"charge": "{{ steps.charge.output }}", "after": "{{ steps.after.output }}"}
    await client.call("POST", "/workflows", {"name": name, "steps": steps, "outputs": outputs})
    run_id: str = (await client.call("POST", f"/workflows/{name}/execute", {}))["id"]
    while not await called.calls_of(run_id):
        await asyncio.sleep(0.02)
    return run_id


async def test_an_unsafe_call_in_flight_asks_a_person(
    server: RefluxServer, client: Client, called: CalledServer
) -> None:
    verdicts = ("succeeded", "failed", "retry")
    runs = {verdict: await call_hanging(client, called, f"w-{verdict}") for verdict in verdicts}
    for _ in range(2):  # the second kill finds them waiting already
        server.kill()
        server.start()
        await server.ready()
        for run_id in runs.values():
            run = await client.run_until(run_id, {"waiting"}, 10)
            assert [step["status"] for step in run["steps"]] == ["outcome_unknown", "queued"]
            assert run["steps"][0]["waiting_for"]["reason"] == "outcome_unknown"
            assert len(await called.calls_of(run_id)) == 1
    for verdict, run_id in runs.items():
        told = {"outcome": verdict, **({"output": {"id": 7}} if verdict == "succeeded" else {})}
        await client.call("POST", f"/runs/{run_id}/steps/charge/resolve", told)
    server.kill()
    server.start()
    await server.ready()
    done = await client.run_until(runs["succeeded"], FINAL, 10)
    assert (done["status"], done["outputs"]) == ("completed", {"charge": {"id": 7}, "after": "after"})
    failed = await client.run_until(runs["failed"], FINAL, 10)
    assert (failed["status"], failed["error"]["class"]) == ("failed", "worker_lost")
    # The retried call was in flight again, or about to be, at the last kill: at most one more call, and it asks again
    # unless it had not begun.
    deadline = time.monotonic() + 10
    while len(calls := await called.calls_of(runs["retry"])) < 2:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    assert len(calls) == 2
    assert len({call.key for call in calls}) == 1
    await client.call("POST", f"/runs/{runs['retry']}/cancel", {})
    for run_id in (runs["succeeded"], runs["failed"]):
        assert len(await called.calls_of(run_id)) == 1
    journal = {run_id: await client.pages(f"/runs/{run_id}/events") for run_id in runs.values()}
    findings = Findings()
    judge_traces(journal, await client.pages("/traces"), findings)
    assert findings.good, findings


async def test_a_node_that_kills_the_server_is_given_up(server: RefluxServer, client: Client) -> None:
    names = ("user.kill_server", "user.kill_server_pure")
    for name in names:
        await client.call("POST", "/workflows", {"name": name, "steps": [{"id": "s", "node": name}]})

    async def execute(name: str) -> dict[str, Any]:
        run = await client.call("POST", f"/workflows/{name}/execute", {}, {"Idempotency-Key": name})
        return await client.run_until(run["id"], FINAL, 60)

    starts = 0
    runs = asyncio.gather(*(execute(name) for name in names))
    while not runs.done():
        if not server.alive:
            server.start()
            starts += 1
            assert starts <= 2 * MAX_LOST, "the server still dies"
        await asyncio.sleep(0.02)
    for run in await runs:
        assert (run["status"], run["error"]["class"]) == ("failed", "worker_lost")
        events = await client.pages(f"/runs/{run['id']}/events")
        assert sum(1 for one in events if one["data"].get("lost")) == MAX_LOST
    assert starts >= MAX_LOST
    assert server.alive


# --- the judge must be able to find something ------------------------------------------------------------------------


def event(kind: str, attempt: int, at: float, **data: Any) -> dict[str, Any]:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + "Z"
    return {"type": kind, "step_id": "s", "attempt": attempt, "at": stamp, "data": data}


START, DONE = event("attempt_started", 1, 10), event("attempt_succeeded", 1, 20)
LOST = event("attempt_failed", 1, 15, lost=True)
AGAIN = [START, LOST, event("attempt_started", 2, 16), event("attempt_succeeded", 2, 20)]


@pytest.mark.parametrize(
    ("events", "called_at", "good"),
    [
        ([START, DONE], [11], True),
        ([START, DONE], [11, 12], False),
        ([START, DONE], [21], False),
        (AGAIN, [11, 17], True),
        (AGAIN, [11, 12, 17], False),
        ([START, DONE, event("attempt_succeeded", 2, 20)], [11], False),
    ],
)
def test_the_judge_sees_what_was_done_twice(events: list[dict[str, Any]], called_at: list[float], good: bool) -> None:
    findings = Findings()
    judge_calls({"r": events}, [Call("r:s", "GET", at, True) for at in called_at], findings)
    assert findings.good is good


@pytest.mark.parametrize(("attempts", "missing", "double"), [([1, 2], 0, 0), ([2], 1, 0), ([1, 2, 2], 0, 1)])
def test_the_judge_sees_missing_and_double_traces(attempts: list[int], missing: int, double: int) -> None:
    findings = Findings()
    traces = [{"run_id": "r", "step_id": "s", "attempt": one} for one in attempts]
    judge_traces({"r": AGAIN}, traces, findings)
    assert (len(findings.traces_missing), len(findings.traces_double)) == (missing, double)
