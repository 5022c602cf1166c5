"""Cancel, time-outs, deadlines and timers act on time, whatever the node does, and also after a restart."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from core.command import Cancel
from core.errors import Conflict
from core.run import EventType, RunStatus
from tests.chaos.hanging_server import HangingServer
from tests.engine.runner_room import Log, Room, begun, ends, open_room
from tests.engine.test_runner import statuses, step, work
from tests.engine.test_runner_recovery import crash

WILL_NOT_STOP = {
    "swallows": step("s", "user.stubborn", {"seconds": 8}),
    "sleeps": step("s", "user.sleep", {"seconds": 30}),
    "spins": step("s", "user.spin", {"seconds": 30}),
    "hangs": step("s", "http.request", {"url": "{{ input.url }}"}),
    "waits": step("s", "flow.delay", {"seconds": 30}),
    "retries": step("s", "test.fail", retry={"max_attempts": 5, "initial": "30s"}),
}


@pytest.fixture
async def room(database: str, tmp_path: Path) -> AsyncIterator[Room]:
    async with open_room(database, tmp_path) as opened:
        yield opened


@pytest.fixture
async def hanging() -> AsyncIterator[str]:
    async with HangingServer() as server:
        yield server.url


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.mark.parametrize("kind", WILL_NOT_STOP)
async def test_cancel_acts_within_a_second(room: Room, hanging: str, kind: str) -> None:
    spec = {"steps": [WILL_NOT_STOP[kind], work("after", needs=["s"])]}
    actor = await room.submit(spec, {"url": hanging})
    await actor.accepted()
    await asyncio.sleep(0.5)
    asked = now()
    await room.cancel(actor.state.record.id, "enough")
    state = await asyncio.wait_for(asyncio.shield(actor.done), 2)
    assert now() - asked < 1.0
    assert state.status is RunStatus.CANCELLED
    assert statuses(state) == {"s": "cancelled", "after": "cancelled"}
    events = await room.ended(actor.state.record.id)
    assert ends(events) == begun(events)
    with pytest.raises(Conflict):
        await actor.ask(Cancel(id=room.clock.new_id(), reason="again"))


@pytest.mark.parametrize("kind", ["swallows", "sleeps", "spins", "hangs"])
async def test_a_timeout_acts_within_a_second(room: Room, hanging: str, kind: str) -> None:
    spec = {"steps": [{**WILL_NOT_STOP[kind], "timeout": "700ms"}]}
    begun_at = now()
    state = await room.run(spec, {"url": hanging})
    assert 0.6 < now() - begun_at < 1.7
    assert state.error is not None
    assert state.error["class"] == "timeout"
    events = await room.ended(state.record.id)
    assert [one.data["trace"]["status"] for one in events if one.type is EventType.ATTEMPT_FAILED] == ["timeout"]


@pytest.mark.parametrize("kind", ["swallows", "sleeps", "waits"])
async def test_the_run_s_deadline_acts_within_a_second(room: Room, kind: str) -> None:
    begun_at = now()
    state = await room.run({"steps": [WILL_NOT_STOP[kind]], "policies": {"max_duration": "700ms"}})
    assert 0.6 < now() - begun_at < 1.7
    assert (state.status, statuses(state)) == (RunStatus.FAILED, {"s": "cancelled"})
    assert state.error is not None
    assert state.error["class"] == "timeout"
    events = await room.ended(state.record.id)
    assert ends(events) == begun(events)


async def test_cancelled_attempts_leave_no_process_behind(room: Room) -> None:
    for _ in range(3):
        actor = await room.submit({"steps": [WILL_NOT_STOP["spins"]]})
        await actor.accepted()
        await asyncio.sleep(0.3)
        await room.cancel(actor.state.record.id, "enough")
    # There are only so many child processes: a lost one would make this wait for ever.
    state = await room.run({"steps": [step(f"s{n}", "user.sleep", {"seconds": 0.01}) for n in range(4)]})
    assert state.status is RunStatus.COMPLETED


async def test_a_child_that_dies_fails_its_step_and_nothing_else(room: Room) -> None:
    steps = [step("dies", "user.kill_child", on_error="continue"), step("lives", "user.sleep", {"seconds": 0.1})]
    state = await room.run({"steps": steps})
    assert (state.status, statuses(state)) == (RunStatus.COMPLETED, {"dies": "failed", "lives": "completed"})
    assert "SIGKILL" in str(state.steps["dies"].error)


async def restarted(database: str, tmp_path: Path, spec: dict[str, Any], down: float) -> tuple[float, Any]:
    """Start a run, crash, stay down for a while; returns how long the run took in all, and its events."""
    log = Log()
    async with open_room(database, tmp_path, log=log) as first:
        actor = await first.submit(spec)
        await actor.accepted()
        begun_at = now()
        await asyncio.sleep(0.3)
        await crash(first)
    await asyncio.sleep(down)
    async with open_room(database, tmp_path, log=log, exclusive=True) as second:
        events = await second.ended(actor.state.record.id)
        return now() - begun_at, events


async def test_a_delay_goes_on_after_a_restart_and_ends_on_time(database: str, tmp_path: Path) -> None:
    took, events = await restarted(database, tmp_path, {"steps": [step("s", "flow.delay", {"seconds": 2.0})]}, 0.0)
    assert 1.9 < took < 2.9
    assert [one.type.value for one in events] == [
        "run_created", "attempt_started", "run_recovered", "attempt_succeeded", "run_completed",
    ]  # fmt: skip
    (end,) = (one for one in events if one.type is EventType.ATTEMPT_SUCCEEDED)
    assert 1_900 < end.data["trace"]["latency_ms"] < 2_900


async def test_a_delay_that_ended_while_the_server_was_down_ends_at_once(database: str, tmp_path: Path) -> None:
    took, _ = await restarted(database, tmp_path, {"steps": [step("s", "flow.delay", {"seconds": 1.0})]}, 1.0)
    assert took < 3.0


async def test_a_retry_s_timer_goes_on_after_a_restart(database: str, tmp_path: Path) -> None:
    retry = {"max_attempts": 2, "initial": "2s", "jitter": False}
    spec = {"steps": [step("s", "user.fails_until", {"attempt": 2}, retry=retry)]}
    took, events = await restarted(database, tmp_path, spec, 0.0)
    assert 1.9 < took < 2.9
    assert events[-1].type is EventType.RUN_COMPLETED
    assert [one.attempt for one in events if one.type is EventType.ATTEMPT_STARTED] == [1, 2]


async def test_the_deadline_acts_after_a_restart(database: str, tmp_path: Path) -> None:
    spec = {"steps": [step("s", "flow.delay", {"seconds": 60})], "policies": {"max_duration": "2s"}}
    took, events = await restarted(database, tmp_path, spec, 0.0)
    assert 1.9 < took < 2.9
    assert events[-1].data["error"]["class"] == "timeout"
    assert ends(events) == begun(events)


async def test_a_deadline_that_passed_while_the_server_was_down_acts_at_once(database: str, tmp_path: Path) -> None:
    spec = {"steps": [step("s", "test.gate")], "policies": {"max_duration": "1s"}}
    took, events = await restarted(database, tmp_path, spec, 1.0)
    assert took < 3.0
    assert events[-1].data["error"]["class"] == "timeout"
    assert ends(events) == begun(events)
