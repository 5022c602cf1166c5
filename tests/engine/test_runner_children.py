"""Steps that start runs: in order, and with the engine killed at every point between two of their events."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from core.command import Cancel, Pause, Resume
from core.errors import Unavailable
from core.ids import RunId
from core.run import NO_ITEM, EventType, RunStatus, StepStatus
from tests.engine.runner_room import Log, Room, begun, crash, ends, open_room
from tests.engine.test_runner import step, work

GATE_BODY = {"steps": [step("gate", "test.gate")], "outputs": {"v": "{{ steps.gate.output }}"}}
ITEMS = {"items": [0, 1, 2], "steps": [step("one", "test.work", {"value": "{{ input.item * 10 }}"})]}
LOOP = {
    "until": "output.n >= 2",
    "steps": [step("one", "test.work", {"value": "{{ input.loop.index }}"})],
    "outputs": {"n": "{{ steps.one.output }}"},
}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.kinship._LOOK_SECONDS", 0.2)


async def nothing(*_: Any) -> None:
    """Instead of starting a child, or of looking after it."""


async def children_of(room: Room, run_id: RunId) -> list[tuple[RunId, str]]:
    rows = await room.rows("SELECT DISTINCT run_id FROM run_events WHERE data->'parent'->>'run_id' = $1", str(run_id))
    found = await room.rows(
        "SELECT id, status FROM runs WHERE id = ANY($1) ORDER BY id", [one["run_id"] for one in rows]
    )
    return [(RunId(one["id"]), one["status"]) for one in found]


async def check(room: Room, run_id: RunId) -> None:
    """What holds for a run and for all that it started: one end for each attempt, one beginning for each child."""
    events = await room.ended(run_id)
    assert [one.seq for one in events] == list(range(1, len(events) + 1))
    assert ends(events) == begun(events)
    started = Counter(one.data["run_id"] for one in events if one.type is EventType.CHILD_STARTED)
    assert set(started.values()) <= {1}
    over = Counter(one.data["index"] for one in events if one.type is EventType.CHILD_ENDED)
    indices = Counter(one.data["index"] for one in events if one.type is EventType.CHILD_STARTED)
    assert all(over[index] <= indices[index] for index in over)
    for child, _ in await children_of(room, run_id):
        assert str(child) in started
        await check(room, child)


async def test_every_kind_of_composition_gives_what_its_children_gave(database: str, tmp_path: Path) -> None:
    async with open_room(database, tmp_path, whole=True) as room:
        await room.save(
            "double",
            {
                "steps": [step("d", "test.work", {"value": "{{ input.n * 2 }}"})],
                "outputs": {"n": "{{ steps.d.output }}"},
            },
        )
        branches = {"a": {"workflow": "double", "input": {"n": 5}}, "b": {"steps": [work("x")]}}
        spec = {
            "steps": [
                step("sub", "flow.subworkflow", {"workflow": "double", "input": {"n": "{{ input.n }}"}}),
                step("par", "flow.parallel", {"branches": branches}),
                step("each", "flow.foreach", {**ITEMS, "concurrency": 2}),
                step("loop", "flow.loop", {**LOOP, "delay": "50ms"}),
                step("many", "flow.subworkflow", {"workflow": "double", "input": {"n": "{{ item }}"}}, foreach=[1, 2]),
            ],
            "outputs": {one: f"{{{{ steps.{one}.output }}}}" for one in ("sub", "par", "each", "loop", "many")},
        }
        state = await room.run(spec, {"n": 21})
        assert state.outputs == {
            "sub": {"n": 42},
            "par": {"a": {"n": 10}, "b": {"x": "x"}},
            "each": {"results": [{"one": 0}, {"one": 10}, {"one": 20}], "succeeded": 3, "failed": 0, "errors": []},
            "loop": {"iterations": 3, "output": {"n": 2}, "exhausted": False},
            "many": [{"n": 2}, {"n": 4}],
        }
        await check(room, state.record.id)
        assert len(await children_of(room, state.record.id)) == 11


async def test_a_child_that_fails_fails_its_step_and_a_retry_starts_another_one(database: str, tmp_path: Path) -> None:
    async with open_room(database, tmp_path, whole=True) as room:
        await room.save("bad", {"steps": [step("f", "test.fail")]})
        twice = {"max_attempts": 2, "initial": "10ms", "on": ["network"]}
        state = await room.run({"steps": [step("sub", "flow.subworkflow", {"workflow": "bad"}, retry=twice)]})
        assert state.status is RunStatus.FAILED
        assert state.error is not None
        assert (state.error["class"], state.error["step"]) == ("network", "sub")
        assert [status for _, status in await children_of(room, state.record.id)] == ["failed", "failed"]
        assert len(room.log.calls) == 2
        await check(room, state.record.id)


@pytest.mark.parametrize(
    ("node", "params", "said"),
    [
        ("flow.subworkflow", {"workflow": "nobody"}, "nobody"),
        ("flow.subworkflow", {"workflow": "strict", "input": {"n": "x"}}, "does not fit"),
        ("flow.foreach", {"items": [1], "steps": [step("a", "test.work", {"value": "{{ nothing.here }}"})]}, ""),
    ],
)
async def test_a_child_that_cannot_begin_fails_its_step(
    database: str, tmp_path: Path, node: str, params: Any, said: str
) -> None:
    async with open_room(database, tmp_path, whole=True) as room:
        await room.save("strict", {"steps": [work("a")], "inputs": {"properties": {"n": {"type": "integer"}}}})
        state = await room.run({"steps": [step("sub", node, params)]})
        assert state.status is RunStatus.FAILED
        assert state.error is not None
        assert said in str(state.error["message"])
        await check(room, state.record.id)


async def test_a_workflow_that_starts_itself_ends(database: str, tmp_path: Path) -> None:
    async with open_room(database, tmp_path, whole=True) as room:
        await room.save("deep", {"steps": [step("again", "flow.subworkflow", {"workflow": "deep"})]})
        state = await room.run({"steps": [step("sub", "flow.subworkflow", {"workflow": "deep"})]}, seconds=20)
        assert state.status is RunStatus.FAILED
        assert state.error is not None
        assert "20 deep" in str(state.error)
        # A fallback that fails in turn is no way around it.
        await room.save("rescue", {"steps": [step("f", "test.fail")], "policies": {"fallback_workflow": "rescue"}})
        state = await room.run(
            {"steps": [step("f", "test.fail")], "policies": {"fallback_workflow": "rescue"}}, seconds=20
        )
        assert state.status is RunStatus.FAILED
        assert len(room.log.of("f")) == 21


async def test_cancelling_a_run_cancels_what_it_started(database: str, tmp_path: Path) -> None:
    async with open_room(database, tmp_path, whole=True) as room:
        await room.save("mid", {"steps": [step("sub", "flow.foreach", {"items": [1, 2], **GATE_BODY})]})
        actor = await room.submit({"steps": [step("sub", "flow.subworkflow", {"workflow": "mid"})]})
        run_id = actor.state.record.id
        await room.until(lambda: len(room.log.of("gate")) == 2)
        await room.cancel(run_id, "not wanted")
        events = await room.ended(run_id)
        assert ends(events) == begun(events)
        await room.until(lambda: room.engine.active == 0)
        ((mid, status),) = await children_of(room, run_id)
        assert status == "cancelled"
        assert [one for _, one in await children_of(room, mid)] == ["cancelled"] * 2
        assert (await room.stored(mid)).cancel_reason == "not wanted"


async def test_cancelling_in_the_turn_in_which_a_child_is_started_leaves_none_behind(
    database: str, tmp_path: Path
) -> None:
    async with open_room(database, tmp_path, whole=True) as room:
        await room.save("mid", GATE_BODY)
        for turns in range(12):
            actor = await room.submit({"steps": [step("sub", "flow.subworkflow", {"workflow": "mid"})]})
            for _ in range(turns * 3):
                await asyncio.sleep(0)
            await room.ask(actor.state.record.id, Cancel)
        await room.until(lambda: room.engine.active == 0)
        assert {one["status"] for one in await room.rows("SELECT status FROM runs")} == {"cancelled"}


async def test_a_step_that_times_out_cancels_its_children(database: str, tmp_path: Path) -> None:
    async with open_room(database, tmp_path, whole=True) as room:
        steps = [step("sub", "flow.foreach", {"items": [1, 2], **GATE_BODY}, timeout="300ms", on_error="continue")]
        state = await room.run({"steps": [*steps, work("after", needs=["sub"])]})
        assert state.status is RunStatus.COMPLETED
        assert state.steps["sub"].error is not None
        assert state.steps["sub"].error["class"] == "timeout"
        await room.until(lambda: room.engine.active == 0)
        assert {status for _, status in await children_of(room, state.record.id)} == {"cancelled"}
        await check(room, state.record.id)


async def test_a_paused_run_starts_no_child_until_it_is_resumed(database: str, tmp_path: Path) -> None:
    async with open_room(database, tmp_path, whole=True) as room:
        actor = await room.submit(
            {"steps": [step("each", "flow.foreach", {"items": [1, 2], **GATE_BODY, "concurrency": 1})]}
        )
        run_id = actor.state.record.id
        await room.until(lambda: len(room.log.of("gate")) == 1)
        await room.ask(run_id, Pause)
        room.log.gate.set()
        await room.journalled(run_id, "child_ended")
        await asyncio.sleep(0.1)
        assert (actor.state.status, len(room.log.of("gate"))) == (RunStatus.PAUSED, 1)
        await room.ask(run_id, Resume)
        assert (await room.ended(run_id))[-1].type is EventType.RUN_COMPLETED
        assert len(room.log.of("gate")) == 2


# --- crashes ---------------------------------------------------------------------------------------------------------

CASES: dict[str, tuple[dict[str, Any], int]] = {
    "subworkflow": (step("s", "flow.subworkflow", {"workflow": "gated"}), 1),
    "timed": (step("s", "flow.subworkflow", {"workflow": "gated"}, timeout="60s"), 1),
    "parallel": (step("s", "flow.parallel", {"branches": {"a": {"workflow": "gated"}, "b": dict(GATE_BODY)}}), 2),
    "foreach": (step("s", "flow.foreach", {"items": [1, 2, 3], **GATE_BODY, "concurrency": 2}), 3),
    "loop": (step("s", "flow.loop", {"until": "index == 1", "workflow": "gated"}), 2),
    "elements": (step("s", "flow.subworkflow", {"workflow": "gated"}, foreach=[1, 2]), 2),
}


@pytest.mark.parametrize("when", ["before", "while", "after"])
async def test_children_go_on_after_a_crash(database: str, tmp_path: Path, when: str) -> None:
    log = Log()
    runs: dict[str, RunId] = {}
    async with open_room(database, tmp_path, log=log, whole=True) as first:
        await first.save("gated", GATE_BODY)
        if when == "before":
            first.engine.launch = nothing  # type: ignore[method-assign]
        if when == "after":
            first.engine._kinship.tell_parent = lambda *_: None  # type: ignore[method-assign]
            log.gate.set()
        for name, (composite, _) in CASES.items():
            actor = await first.submit({"steps": [composite, work("after", needs=["s"])]})
            runs[name] = actor.state.record.id
        for run_id in runs.values():
            await first.journalled(run_id, "child_started")
        if when != "before":
            await first.until(lambda: len(log.of("gate")) == 9)
        await asyncio.sleep(0.2)
        seen = len(log.of("gate"))
        await crash(first)
        log.gate.set()
        async with open_room(database, tmp_path, log=log, exclusive=True, whole=True) as second:
            for name, (_, count) in CASES.items():
                events = await second.ended(runs[name])
                assert events[-1].type is EventType.RUN_COMPLETED
                await check(second, runs[name])
                assert [status for _, status in await children_of(second, runs[name])] == ["completed"] * count
            await second.until(lambda: second.engine.active == 0)
    # What was in flight is called once more, and nothing that had been recorded.
    assert len(log.of("gate")) == sum(count for _, count in CASES.values()) + (seen if when == "while" else 0)
    assert log.of("after") == [NO_ITEM] * len(CASES)


async def test_a_loop_takes_up_its_pause_after_a_crash(database: str, tmp_path: Path) -> None:
    log = Log()
    async with open_room(database, tmp_path, log=log, whole=True) as first:
        actor = await first.submit({"steps": [step("s", "flow.loop", {**LOOP, "delay": "1s"})]})
        run_id = actor.state.record.id
        await first.journalled(run_id, "child_ended")
        await crash(first)
        async with open_room(database, tmp_path, log=log, exclusive=True, whole=True) as second:
            assert (await second.ended(run_id))[-1].type is EventType.RUN_COMPLETED
            await check(second, run_id)
    assert len(log.of("one")) == 3


async def test_later_children_keep_the_version_that_the_first_one_had(database: str, tmp_path: Path) -> None:
    log = Log()
    old = {"steps": [step("gate", "test.gate")], "outputs": {"v": 1}}
    async with open_room(database, tmp_path, log=log, whole=True) as first:
        await first.save("part", old)
        actor = await first.submit(
            {"steps": [step("s", "flow.foreach", {"items": [1, 2, 3], "workflow": "part", "concurrency": 1})]}
        )
        run_id = actor.state.record.id
        await first.until(lambda: len(log.of("gate")) == 1)
        assert await first.save("part", {**old, "outputs": {"v": 2}}) == 2
        await crash(first)
        log.gate.set()
        async with open_room(database, tmp_path, log=log, exclusive=True, whole=True) as second:
            await second.ended(run_id)
            output = (await second.stored(run_id)).steps["s"].output
            assert isinstance(output, dict)
            assert output["results"] == [{"v": 1}] * 3
            fresh = await second.run({"steps": [step("s", "flow.subworkflow", {"workflow": "part"})]})
            assert fresh.steps["s"].output == {"v": 2}


async def test_a_child_whose_parent_ended_while_both_were_in_nobody_s_hands_is_cancelled(
    database: str, tmp_path: Path
) -> None:
    log = Log()
    async with open_room(database, tmp_path, log=log, whole=True) as first:
        await first.save("gated", GATE_BODY)
        spec = {"steps": [step("s", "flow.subworkflow", {"workflow": "gated"})]}
        run_id = (await first.submit(spec)).state.record.id
        late = {
            "steps": [
                {**spec["steps"][0], "timeout": "300ms", "on_error": "continue"},
                step("d", "flow.delay", {"seconds": 60}),
            ]
        }
        other = (await first.submit(late)).state.record.id
        await first.until(lambda: len(log.of("gate")) == 2)
        first.engine.actor(run_id).children.cancel_child = lambda *_: None  # type: ignore[method-assign, union-attr]
        first.engine.actor(other).children.cancel_child = lambda *_: None  # type: ignore[method-assign, union-attr]
        await first.cancel(run_id, "not wanted")
        await first.journalled(other, "attempt_failed")
        await crash(first)
        async with open_room(database, tmp_path, log=log, exclusive=True, whole=True) as second:
            for parent in (run_id, other):
                ((child, _),) = await children_of(second, parent)
                assert (await second.ended(child))[-1].type is EventType.RUN_CANCELLED


async def test_a_child_whose_first_write_is_lost_begins_again(database: str, tmp_path: Path) -> None:
    async with open_room(database, tmp_path, whole=True) as room:
        await room.save("part", {"steps": [work("in")]})
        launch, refused = room.engine.launch, 0

        async def once(*given: Any) -> None:
            nonlocal refused
            refused += 1
            if refused == 1:
                raise Unavailable("not at this moment")
            await launch(*given)

        room.engine.launch = once  # type: ignore[method-assign]
        state = await room.run({"steps": [step("s", "flow.subworkflow", {"workflow": "part"})]}, seconds=15)
        assert state.status is RunStatus.COMPLETED
        await check(room, state.record.id)


async def test_the_run_fails_when_its_child_can_never_begin(database: str, tmp_path: Path) -> None:
    async with open_room(database, tmp_path, whole=True) as room:
        room.engine.launch = nothing  # type: ignore[method-assign]
        actor = await room.submit({"steps": [step("s", "flow.foreach", ITEMS)]})
        await room.until(lambda: actor.state.steps["s"].status is StepStatus.RUNNING)
        assert (await room.ended(actor.state.record.id))[-1].type is EventType.RUN_FAILED
