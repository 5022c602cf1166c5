"""What people do to a run: pause it, stop before a step, run steps again; also with a crash in between."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from core.command import Breakpoints, Cancel, Pause, Proceed, Redrive, Resume
from core.errors import Conflict, Invalid
from core.ids import RunId
from core.run import NO_ITEM, EventType, RunOptions, RunStatus, StepStatus
from tests.engine.runner_room import Log, Room, begun, crash, ends, open_room
from tests.engine.test_runner import statuses, step, work

CHAIN = {
    "steps": [
        step("a", "test.work", {"value": "{{ input.n }}"}),
        step("b", "test.work", {"value": "{{ steps.a.output + 1 }}"}),
        step("c", "test.work", {"value": "{{ steps.b.output + 1 }}"}),
        work("d"),
    ],
    "outputs": {"v": "{{ steps.c.output }}"},
}


async def ended_again(room: Room, run_id: RunId) -> list[Any]:
    """The events of a run that was made to go on, once it has ended again."""
    async with asyncio.timeout(10):
        while True:
            events = await room.journal.events(run_id, 0, 10_000)
            kinds = [one.type.value for one in events]
            after = kinds[kinds.index("step_redriven") :] if "step_redriven" in kinds else []
            if {"run_completed", "run_failed", "run_cancelled"} & set(after):
                assert [one.seq for one in events] == list(range(1, len(events) + 1))
                assert ends(events) == begun(events)
                return events
            await asyncio.sleep(0.02)


# --- pause -----------------------------------------------------------------------------------------------------------


async def test_nothing_starts_while_a_run_is_paused_also_after_a_crash(database: str, tmp_path: Path) -> None:
    log = Log()
    spec = {
        "steps": [
            step("a", "test.gate"),
            work("b", needs=["a"]),
            step("t", "flow.delay", {"seconds": 0.2}),
            work("u", needs=["t"]),
        ]
    }
    async with open_room(database, tmp_path, log=log, whole=True) as first:
        actor = await first.submit(spec)
        run_id = actor.state.record.id
        await first.until(lambda: bool(log.calls))
        await first.ask(run_id, Pause, reason="lunch", by="ann")
        with pytest.raises(Conflict):
            await first.ask(run_id, Pause)
        log.gate.set()
        await first.journalled(run_id, "attempt_succeeded")
        await asyncio.sleep(0.3)
        assert actor.state.status is RunStatus.PAUSED
        assert log.calls == [("a", NO_ITEM, 1)]
        await crash(first)
        async with open_room(database, tmp_path, log=log, exclusive=True, whole=True) as second:
            state = (await second.taken_up(run_id)).state
            await second.journalled(run_id, "run_recovered")
            await asyncio.sleep(0.1)
            assert (state.status, state.pause_reason) == (RunStatus.PAUSED, "lunch")
            assert len(log.calls) == 1
            await second.ask(run_id, Resume)
            events = await second.ended(run_id)
    assert events[-1].type is EventType.RUN_COMPLETED
    assert sorted(one for one, _, _ in log.calls) == ["a", "b", "u"]
    assert ends(events) == begun(events)


async def test_the_time_of_a_pause_does_not_count(database: str, tmp_path: Path) -> None:
    log = Log()
    spec = {"steps": [step("a", "test.gate"), work("b", needs=["a"])], "policies": {"max_duration": "700ms"}}
    async with open_room(database, tmp_path, log=log, whole=True) as first:
        runs = [(await first.submit(spec)).state.record.id for _ in range(2)]
        await first.until(lambda: len(log.calls) == 2)
        for run_id in runs:
            await first.ask(run_id, Pause)
        await asyncio.sleep(0.5)
        await crash(first)
        async with open_room(database, tmp_path, log=log, exclusive=True, whole=True) as second:
            for run_id in runs:
                await second.taken_up(run_id)
            await asyncio.sleep(0.5)
            await second.ask(runs[1], Resume)
            late = await second.ended(runs[1], 3)
            assert (late[-1].type, late[-1].data["error"]["class"]) == (EventType.RUN_FAILED, "timeout")
            log.gate.set()
            await second.ask(runs[0], Resume)
            assert (await second.ended(runs[0]))[-1].type is EventType.RUN_COMPLETED


async def test_a_retry_without_delay_that_met_a_pause_runs_once(database: str, tmp_path: Path) -> None:
    async with open_room(database, tmp_path, whole=True) as room:
        now = {"max_attempts": 3, "initial": "0ms", "jitter": False, "on": ["network"]}
        limit = {"concurrency": 1}
        spec = {"steps": [step("f", "test.fail", {"times": 1}, retry=now, limit=limit)]}
        for turns in range(1, 40, 3):
            actor = await room.submit(spec)
            for _ in range(turns):
                await asyncio.sleep(0)
            try:
                await room.ask(actor.state.record.id, Pause)
                await asyncio.sleep(0.01)
                await room.ask(actor.state.record.id, Resume)
            except Conflict:
                pass  # it was over already
            events = await room.ended(actor.state.record.id)
            assert ends(events) == begun(events) == [("f", NO_ITEM, 1), ("f", NO_ITEM, 2)]
        await room.tidy()


# --- breakpoints -----------------------------------------------------------------------------------------------------


async def test_a_run_stops_before_a_step_and_goes_on_with_edited_input(database: str, tmp_path: Path) -> None:
    log = Log()
    async with open_room(database, tmp_path, log=log, whole=True) as first:
        actor = await first.submit(CHAIN, {"n": 1}, options=RunOptions(breakpoints=("b",)))
        run_id = actor.state.record.id
        await first.until(lambda: actor.state.status is RunStatus.WAITING)
        assert actor.state.steps["b"].waiting == {"reason": "breakpoint", "input": {"value": 2}}
        await actor.settled()
        await crash(first)
        async with open_room(database, tmp_path, log=log, exclusive=True, whole=True) as second:
            state = (await second.taken_up(run_id)).state
            await second.journalled(run_id, "run_recovered")
            assert state.status is RunStatus.WAITING
            for wrong in ({"valeu": 1}, {"value": "{{ 1 + }}"}):
                with pytest.raises(Invalid):
                    await second.ask(run_id, Proceed, with_=wrong)
            with pytest.raises(Conflict):
                await second.ask(run_id, Proceed, step_id="c")
            with pytest.raises(Invalid):
                await second.ask(run_id, Breakpoints, steps=("nobody",))
            await second.ask(run_id, Proceed, step_id="b", with_={"value": "{{ input.n + 40 }}"}, mode="step")
            await second.until(lambda: state.steps["c"].status is StepStatus.WAITING)
            assert state.steps["b"].output == 41
            assert state.steps["c"].waiting == {"reason": "breakpoint", "input": {"value": 42}}
            await second.ask(run_id, Proceed)
            events = await second.ended(run_id)
    assert events[-1].payload == {"v": 42}
    assert ends(events) == begun(events)
    assert sorted(log.keys) == [("a", "a"), ("b", "b~1"), ("c", "c"), ("d", "d")]
    assert len(log.calls) == 4


async def test_a_breakpoint_before_a_list_and_one_set_on_the_way(database: str, tmp_path: Path) -> None:
    each = step("e", "test.work", {"value": "{{ item }}"}, foreach=[1, 2], needs=["gate"])
    async with open_room(database, tmp_path, whole=True) as room:
        actor = await room.submit({"steps": [step("gate", "test.gate"), each]})
        run_id = actor.state.record.id
        await room.until(lambda: bool(room.log.calls))
        await room.ask(run_id, Breakpoints, steps=("e",))
        room.log.gate.set()
        await room.until(lambda: actor.state.status is RunStatus.WAITING)
        assert (actor.state.asleep, actor.state.active, room.log.of("e")) == (1, 0, [])
        await room.ask(run_id, Proceed)
        assert (await room.ended(run_id))[-1].type is EventType.RUN_COMPLETED
        assert sorted(room.log.of("e")) == [0, 1]
        # A cancelled run that stands at a breakpoint leaves nothing open.
        actor = await room.submit({"steps": [work("a")]}, options=RunOptions(breakpoints=("a",)))
        await room.until(lambda: actor.state.status is RunStatus.WAITING)
        await room.cancel(actor.state.record.id, "")
        assert (actor.state.open, actor.state.asleep) == (0, 0)


# --- redrive ---------------------------------------------------------------------------------------------------------


async def test_a_failed_run_goes_on_from_the_step_that_failed(database: str, tmp_path: Path) -> None:
    spec = {
        "steps": [
            work("a"),
            step("f", "test.fail", {"times": 1}, needs=["a"]),
            step("slow", "test.gate"),
            work("c", needs=["f"]),
        ],
        "policies": {"max_duration": "2s"},
    }
    log = Log()
    async with open_room(database, tmp_path, log=log, whole=True) as first:
        state = await first.run(spec)
        run_id = state.record.id
        assert statuses(state) == {"a": "completed", "f": "failed", "slow": "cancelled", "c": "cancelled"}
        await first.until(lambda: first.engine.active == 0)
        connection = "UPDATE run_events SET at = at - interval '1 hour' WHERE run_id = $1 RETURNING seq"
        await first.rows(connection, run_id)  # long ago: the time since then does not count against its limit
        await first.ask(run_id, Redrive, step_id="f", by="ann")
        await first.until(lambda: len(log.of("slow")) == 2)
        assert first.state(run_id).status is RunStatus.RUNNING
        assert (await first.rows("SELECT status, finished_at FROM runs"))[0]["finished_at"] is None
        await crash(first)
        log.gate.set()
        async with open_room(database, tmp_path, log=log, exclusive=True, whole=True) as second:
            events = await ended_again(second, run_id)
            assert events[-1].type is EventType.RUN_COMPLETED
            row = (await second.rows("SELECT status, error FROM runs"))[0]
            assert (row["status"], row["error"]) == ("completed", None)
            assert statuses(await second.stored(run_id)) == dict.fromkeys(("a", "f", "slow", "c"), "completed")
    assert [one for one in log.calls if one[0] in "acf"] == [
        ("a", NO_ITEM, 1),
        ("f", NO_ITEM, 1),
        ("f", NO_ITEM, 2),
        ("c", NO_ITEM, 1),
    ]
    # What has never succeeded is the same effect when it is tried again.
    assert {key for one, key in log.keys} == {"a", "f", "slow", "c"}


@pytest.mark.parametrize("downstream", [True, False])
async def test_a_completed_run_goes_on(database: str, tmp_path: Path, downstream: bool) -> None:
    async with open_room(database, tmp_path, whole=True) as room:
        run_id = (await room.run(CHAIN, {"n": 1})).record.id
        await room.until(lambda: room.engine.active == 0)
        command = Redrive(id=room.clock.new_id(), step_id="b", downstream=downstream, **{"with": {"value": 10}})
        await room.engine.command(run_id, command)
        events = await ended_again(room, run_id)
        assert events[-1].payload == {"v": 11 if downstream else 3}
        again = ["b", "c"] if downstream else ["b"]
        assert [one for one, _, _ in room.log.calls][4:] == again
        assert room.log.keys[4:] == [("b", "b~2"), ("c", "c~1")][: len(again)]
        await room.until(lambda: room.engine.active == 0)
        await room.engine.command(run_id, command)  # the same once more: nothing happens, and it is over as before
        await room.until(lambda: room.engine.active == 0)
        assert len(await room.journal.events(run_id, 0, 1000)) == len(events)
        assert (await room.rows("SELECT status, finished_at FROM runs"))[0]["finished_at"] is not None
        with pytest.raises(Invalid):
            await room.ask(run_id, Redrive, step_id="nobody")
        await room.until(lambda: room.engine.active == 0)
        (row,) = await room.rows("SELECT status, finished_at FROM runs")
        assert (row["status"], row["finished_at"] is None) == ("completed", False)
        with pytest.raises(Conflict):
            await room.ask(run_id, Cancel)


async def test_a_run_taken_back_by_an_engine_that_dies_stays_as_it_was(database: str, tmp_path: Path) -> None:
    async with open_room(database, tmp_path, whole=True) as first:
        run_id = (await first.run({"steps": [step("f", "test.fail")]})).record.id
        await first.until(lambda: first.engine.active == 0)
        before = await first.rows("SELECT status, finished_at, error::text FROM runs")
        assert first.engine.owner is not None
        assert await first.journal.reopen(first.engine.owner, run_id)
        await crash(first)
        async with open_room(database, tmp_path, exclusive=True, whole=True) as second:
            async with asyncio.timeout(5):
                while (await second.rows("SELECT finished_at FROM runs"))[0]["finished_at"] is None:
                    await asyncio.sleep(0.02)
            assert await second.rows("SELECT status, finished_at, error::text FROM runs") == before
            await second.until(lambda: second.engine.active == 0)
            await second.ask(run_id, Redrive, step_id="f", with_={"times": 1})
            assert (await ended_again(second, run_id))[-1].type is EventType.RUN_COMPLETED


async def test_a_running_run_runs_a_step_again_and_gives_up_what_stood_on_it(database: str, tmp_path: Path) -> None:
    spec = {
        "steps": [
            work("a"),
            step("g", "test.gate", needs=["a"]),
            step("h", "test.gate"),
            work("last", needs=["g", "h"]),
        ]
    }
    log = Log()
    async with open_room(database, tmp_path, log=log, whole=True) as first:
        actor = await first.submit(spec)
        run_id = actor.state.record.id
        await first.until(lambda: len(log.of("g")) == len(log.of("h")) == 1)
        with pytest.raises(Conflict):
            await first.ask(run_id, Redrive, step_id="g")
        with pytest.raises(Conflict):
            await first.ask(run_id, Redrive, step_id="last")
        await first.ask(run_id, Redrive, step_id="a")
        await first.until(lambda: len(log.of("g")) == 2)
        assert (actor.state.active, actor.state.open) == (2, 3)
        await crash(first)
        log.gate.set()
        async with open_room(database, tmp_path, log=log, exclusive=True, whole=True) as second:
            events = await ended_again(second, run_id)
    assert events[-1].type is EventType.RUN_COMPLETED
    counts = {one: len(log.of(one)) for one in ("a", "g", "h", "last")}
    assert counts == {"a": 2, "g": 3, "h": 2, "last": 1}
    assert [one for one in log.keys if one[0] == "a"] == [("a", "a"), ("a", "a~1")]


async def test_a_list_runs_again_as_a_whole(database: str, tmp_path: Path) -> None:
    each = step("e", "test.work", {"value": "{{ item + input.n }}"}, foreach="{{ input.items }}")
    spec = {"steps": [each], "outputs": {"v": "{{ steps.e.output }}"}}
    async with open_room(database, tmp_path, whole=True) as room:
        run_id = (await room.run(spec, {"items": [1, 2, 3], "n": 0})).record.id
        await room.until(lambda: room.engine.active == 0)
        await room.ask(run_id, Redrive, step_id="e", with_={"value": "{{ item * 2 }}"})
        events = await ended_again(room, run_id)
        assert events[-1].payload == {"v": [2, 4, 6]}
        assert sorted(room.log.calls) == [("e", item, attempt) for item in range(3) for attempt in (1, 2)]
        assert sorted(one for _, one in room.log.keys) == sorted(
            [f"e:{n}{end}" for n in range(3) for end in ("", "~2")]
        )
        assert (await room.stored(run_id)).steps["e"].attempts == 6


async def test_a_redriven_run_can_be_cancelled_and_redriven_again(database: str, tmp_path: Path) -> None:
    async with open_room(database, tmp_path, whole=True) as room:
        run_id = (await room.run({"steps": [step("f", "test.fail"), work("c", needs=["f"])]})).record.id
        await room.until(lambda: room.engine.active == 0)
        await room.ask(run_id, Redrive, step_id="f", with_={"times": 0, "kind": "network"})
        await room.until(lambda: room.engine.active == 0)
        await room.ask(run_id, Redrive, step_id="c", with_={"seconds": 60})
        await room.until(lambda: room.log.open == 1)
        await room.ask(run_id, Cancel, reason="enough")
        await room.until(lambda: room.engine.active == 0)
        assert (await room.rows("SELECT status FROM runs"))[0]["status"] == "cancelled"
        await room.ask(run_id, Redrive, step_id="c", with_={"seconds": 0})
        await room.until(lambda: room.engine.active == 0)
        state = await room.stored(run_id)
        assert (state.status, statuses(state)) == (RunStatus.COMPLETED, {"f": "completed", "c": "completed"})
        assert state.cancel_reason == ""
        events = await room.journal.events(run_id, 0, 1000)
        assert ends(events) == begun(events)


async def test_a_failure_that_is_not_repeated_ends_the_run_again(database: str, tmp_path: Path) -> None:
    spec = {"steps": [work("a"), step("f", "test.fail", needs=["a"]), work("c", needs=["f"]), work("z", needs=["c"])]}
    async with open_room(database, tmp_path, whole=True) as room:
        run_id = (await room.run(spec)).record.id
        await room.until(lambda: room.engine.active == 0)
        await room.ask(run_id, Redrive, step_id="a", downstream=False)
        events = await ended_again(room, run_id)
        assert events[-1].type is EventType.RUN_FAILED
        assert events[-1].data["error"]["step"] == "f"
        assert [one for one, _, _ in room.log.calls] == ["a", "f", "a"]


async def test_many_ask_for_the_same_at_once(database: str, tmp_path: Path) -> None:
    async with (
        open_room(database, tmp_path, whole=True) as one,
        open_room(database, tmp_path, whole=True, log=one.log) as other,
    ):
        run_id = (await one.run(CHAIN, {"n": 1})).record.id
        await one.until(lambda: one.engine.active == 0)
        calls = len(one.log.calls)
        asked = [room.ask(run_id, Redrive, step_id="c", downstream=False) for room in (one, other, one, other)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        done = sum(answer is None for answer in answers)
        assert done >= 1
        await one.until(lambda: one.engine.active == other.engine.active == 0)
        events = await ended_again(one, run_id)
        redriven = sum(event.type is EventType.STEP_REDRIVEN for event in events)
        assert redriven == done
        assert calls < len(one.log.calls) <= calls + redriven
        (row,) = await one.rows("SELECT status, finished_at FROM runs")
        assert (row["status"], row["finished_at"] is None) == ("completed", False)
