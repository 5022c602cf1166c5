"""Limits and the cache, as runs meet them: over many runs, and with an engine killed while it holds something."""

import asyncio
from pathlib import Path
from typing import Any

from core.command import Redrive
from core.ids import DEFAULT_WORKSPACE
from core.limit import NodeLimit
from core.run import NO_ITEM, EventType, RunOptions, RunStatus
from tests.engine.runner_room import Log, Room, begun, crash, ends, open_room
from tests.engine.test_runner import step


async def finished(room: Room, actors: list[Any], status: RunStatus = RunStatus.COMPLETED) -> None:
    for actor in actors:
        state = await asyncio.wait_for(asyncio.shield(actor.done), 10)
        assert state.status is status, state.error


async def limit_node(room: Room, node: str, **limit: Any) -> None:
    await room.stores.limits.put(NodeLimit(DEFAULT_WORKSPACE, node, **limit), "ann")
    assert room.parts.limits is not None
    await room.parts.limits.reload()


async def test_a_step_s_limit_holds_over_runs_and_engines(database: str, tmp_path: Path) -> None:
    log = Log()
    spec = {"steps": [step("a", "test.work", {"seconds": 0.03}, limit={"concurrency": 3})]}
    async with (
        open_room(database, tmp_path, log=log, whole=True) as one,
        open_room(database, tmp_path, log=log, whole=True) as two,
    ):
        actors = [await room.submit(spec) for _ in range(15) for room in (one, two)]
        await finished(one, actors)
        assert (log.most, len(log.calls)) == (3, 30)
        waited = [len(await one.journal.events(actor.state.record.id, 0, 99)) for actor in actors]
        assert max(waited) <= 5  # one event says that it waits, however long
        await one.tidy()


async def test_a_node_s_limit_holds_for_all_workflows_and_elements(database: str, tmp_path: Path) -> None:
    each = step("e", "test.work", {"seconds": 0.02}, foreach=list(range(8)), concurrency=8)
    async with open_room(database, tmp_path, whole=True) as room:
        await limit_node(room, "test.work", concurrency=2)
        actors = [
            await room.submit({"steps": [each]}),
            await room.submit({"steps": [step("a", "test.work", {"seconds": 0.02}), each]}),
        ]
        await finished(room, actors)
        assert (room.log.most, len(room.log.calls)) == (2, 17)
        for actor in actors:
            events = await room.ended(actor.state.record.id)
            assert ends(events) == begun(events)
        await room.tidy()


async def test_each_value_of_a_key_has_a_limit_of_its_own(database: str, tmp_path: Path) -> None:
    limit = {"concurrency": 1, "key": "{{ input.who }}"}
    async with open_room(database, tmp_path, whole=True) as room:
        spec = {"steps": [step("g", "test.gate", limit=limit)]}
        actors = [await room.submit(spec, {"who": who}) for who in "aab"]
        await room.until(lambda: len(room.log.calls) == 2)
        await asyncio.sleep(0.3)
        assert len(room.log.calls) == 2
        (waits,) = [one for one in actors if one.state.steps["g"].task.attempt_at is None]
        assert waits.state.steps["g"].task.waiting["reason"] == "concurrency_limit"
        assert waits.state.status is RunStatus.WAITING
        room.log.gate.set()
        await finished(room, actors)
        bad = await room.run({"steps": [step("g", "test.gate", limit={**limit, "key": "{{ input.nobody }}"})]})
        assert bad.status is RunStatus.FAILED


async def test_a_full_workflow_queues_runs_or_refuses_them(database: str, tmp_path: Path) -> None:
    queue = {"steps": [step("g", "test.gate")], "policies": {"concurrency": {"max": 1, "key": "{{ input.who }}"}}}
    async with open_room(database, tmp_path, whole=True) as room:
        actors = [await room.submit(queue, {"who": who}) for who in "aaab"]
        await room.until(lambda: len(room.log.calls) == 2)
        await asyncio.sleep(0.15)
        states = sorted(one.state.status.value for one in actors)
        assert states == ["queued", "queued", "running", "running"]
        (gone, *_) = [one for one in actors if one.state.queued]
        await room.cancel(gone.state.record.id, "not wanted")
        await finished(room, [gone], RunStatus.CANCELLED)
        room.log.gate.set()
        await finished(room, [one for one in actors if one is not gone])
        await room.tidy()

        room.log.gate.clear()
        refuse = {"steps": [step("g", "test.gate")], "policies": {"concurrency": {"max": 1, "overflow": "fail"}}}
        held = await room.submit(refuse)
        await room.until(lambda: len(room.log.calls) == 4)
        state = await room.run(refuse)
        assert (state.status, (state.error or {})["class"]) == (RunStatus.FAILED, "policy")
        room.log.gate.set()
        await finished(room, [held])
        assert (await room.run(refuse)).status is RunStatus.COMPLETED
        await room.tidy()


async def test_room_is_kept_over_a_crash_and_never_counted_twice(database: str, tmp_path: Path) -> None:
    """The dead engine's runs keep their places, those that queued behind them still do, and all come back."""
    log = Log()
    whole = {"steps": [step("g", "test.gate")], "policies": {"concurrency": 1}}
    part = {"steps": [step("g", "test.gate", limit={"concurrency": 1})]}
    async with open_room(database, tmp_path, log=log, whole=True) as first:
        runs = [(await first.submit(spec)).state.record.id for spec in (whole, whole, part, part)]
        await first.until(lambda: len(log.calls) == 2)
        for run_id in runs:
            await first.journalled(run_id, "run_created")
        await first.journalled(runs[3], "step_waiting")
        await crash(first)
        async with open_room(database, tmp_path, log=log, exclusive=True, whole=True) as second:
            await second.until(lambda: len(log.calls) == 4)
            await asyncio.sleep(0.3)
            assert len(log.calls) == 4
            log.gate.set()
            for run_id in runs:
                events = await second.ended(run_id)
                assert events[-1].type is EventType.RUN_COMPLETED
                assert ends(events) == begun(events)
            await second.tidy()
    assert len(log.calls) == 6


async def test_a_run_that_goes_on_finds_its_place_in_the_queue(database: str, tmp_path: Path) -> None:
    spec = {
        "steps": [step("f", "test.fail", {"times": 1}), step("g", "test.gate", needs=["f"])],
        "policies": {"concurrency": 1},
    }
    async with open_room(database, tmp_path, whole=True) as room:
        failed = (await room.run(spec)).record.id
        await room.until(lambda: room.engine.active == 0)
        holder = await room.submit({**spec, "steps": [step("g", "test.gate")]})
        await room.until(lambda: room.log.of("g") != [])
        await room.ask(failed, Redrive, step_id="f")
        state = room.state(failed)
        await asyncio.sleep(0.2)
        assert (state.status, room.log.of("f")) == (RunStatus.QUEUED, [NO_ITEM])
        room.log.gate.set()
        await finished(room, [holder])
        await room.until(lambda: state.status is RunStatus.COMPLETED)
        await room.until(lambda: room.engine.active == 0)
        await room.tidy()


async def test_the_urgent_one_comes_first(database: str, tmp_path: Path) -> None:
    spec = {"steps": [step("g", "test.work", {"value": "{{ input.n }}", "seconds": 0.15}, limit={"concurrency": 1})]}
    async with open_room(database, tmp_path, whole=True) as room:
        actors = [await room.submit(spec, {"n": -1})]
        await room.until(lambda: room.log.open == 1)
        actors += [await room.submit(spec, {"n": n}, options=RunOptions(priority=n)) for n in (1, 9, 5)]
        await finished(room, actors)
        order = sorted(actors, key=lambda one: one.state.finished_at)
        assert [one.state.record.input["n"] for one in order] == [-1, 9, 5, 1]


# --- cache -----------------------------------------------------------------------------------------------------------

CACHED = step("c", "test.work", {"value": "{{ input.n }}", "seconds": 0.2}, cache={"ttl": "1h"})


def hits(events: list[Any]) -> list[bool]:
    return [one.data["trace"].get("cache_hit", False) for one in events if one.type is EventType.ATTEMPT_SUCCEEDED]


async def test_equal_calls_at_once_share_one_and_later_ones_its_result(database: str, tmp_path: Path) -> None:
    log = Log()
    async with (
        open_room(database, tmp_path, log=log, whole=True) as one,
        open_room(database, tmp_path, log=log, whole=True) as two,
    ):
        actors = [await room.submit({"steps": [CACHED]}, {"n": 1}) for _ in range(5) for room in (one, two)]
        await finished(one, actors)
        assert len(log.calls) == 1
        late = await one.run({"steps": [CACHED]}, {"n": 1})
        assert late.steps["c"].output == 1
        assert (await one.run({"steps": [CACHED]}, {"n": 2})).steps["c"].output == 2
        assert len(log.calls) == 2
        seen = [hits(await one.ended(actor.state.record.id)) for actor in actors]
        assert sorted(seen) == [[False]] + [[True]] * 9
        for actor in actors:
            events = await one.ended(actor.state.record.id)
            assert ends(events) == [("c", NO_ITEM, 1)]
        await one.tidy()


async def test_a_failed_call_is_not_kept_and_the_next_one_tries(database: str, tmp_path: Path) -> None:
    fail = step("c", "test.fail", {"times": 0}, cache={"ttl": "1h", "key": "1"}, on_error="continue")
    async with open_room(database, tmp_path, whole=True) as room:
        bad = {"steps": [{**fail, "with": {}}]}
        assert (await room.run(bad)).steps["c"].error is not None
        assert (await room.run({"steps": [fail]})).steps["c"].output == 1
        assert len(room.log.calls) == 2
        actor = await room.submit({"steps": [{**CACHED, "with": {"seconds": 60}}]})
        other = await room.submit({"steps": [{**CACHED, "with": {"seconds": 60}}]})
        await room.until(lambda: room.log.open == 1 and other.state.steps["c"].waiting is None)
        await room.journalled(other.state.record.id, "step_waiting")
        await room.cancel(actor.state.record.id, "")
        await room.until(lambda: len(room.log.calls) == 4)  # the other one calls for itself
        await room.cancel(other.state.record.id, "")
        await room.tidy()


async def test_a_call_that_died_with_its_engine_is_made_again(database: str, tmp_path: Path) -> None:
    log = Log()
    gate = step("c", "test.gate", cache={"ttl": "1h"})
    async with open_room(database, tmp_path, log=log, whole=True) as first:
        runs = [(await first.submit({"steps": [gate]})).state.record.id for _ in range(2)]
        await first.until(lambda: len(log.calls) == 1)
        for run_id in runs:
            await first.journalled(run_id, "step_waiting", "attempt_started")
        await crash(first)
        log.gate.set()
        async with open_room(database, tmp_path, log=log, exclusive=True, whole=True) as second:
            for run_id in runs:
                events = await second.ended(run_id)
                assert events[-1].type is EventType.RUN_COMPLETED
                assert ends(events) == begun(events)
            await second.tidy()
    assert len(log.calls) == 2
