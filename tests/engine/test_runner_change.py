"""How runs change and end besides their steps: patches, fallback workflows, `flow.end`, budgets, variables."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from core.command import Cancel, Patch, Pause, Redrive, Resume
from core.errors import Conflict, Invalid
from core.ids import DEFAULT_WORKSPACE
from core.run import NO_ITEM, EventType, RunOptions, RunStatus
from core.variable import VariableScope
from tests.engine.runner_room import Log, begun, crash, ends, open_room
from tests.engine.test_runner import statuses, step, work

HELD = {"steps": [step("g", "test.gate"), work("b", needs=["g"]), work("c", needs=["b"])]}


# --- patches ---------------------------------------------------------------------------------------------------------


async def test_a_running_graph_is_changed_and_stays_so_after_a_crash(database: str, tmp_path: Path) -> None:
    operations = [
        {"op": "add_step", "step": step("new", "test.work", {"value": "{{ steps.b.output }}!"})},
        {"op": "update_params", "id": "b", "with": {"value": "patched"}},
        {"op": "replace_node", "id": "c", "node": "test.fail", "with": {"times": 0}},
    ]
    log = Log()
    async with open_room(database, tmp_path, log=log, whole=True) as first:
        actor = await first.submit(HELD)
        run_id = actor.state.record.id
        await first.until(lambda: bool(log.calls))
        patch = Patch(id=first.clock.new_id(), operations=tuple(operations), by="ann")
        await first.engine.command(run_id, patch)
        await first.engine.command(run_id, patch)
        for wrong in ({"op": "remove_step", "id": "g"}, {"op": "update_params", "id": "nobody", "with": {}}):
            with pytest.raises(Invalid):
                await first.ask(run_id, Patch, operations=(wrong,))
        await crash(first)
        async with open_room(database, tmp_path, log=log, exclusive=True, whole=True) as second:
            second.log.gate.clear()
            await second.taken_up(run_id)
            await second.ask(run_id, Patch, operations=({"op": "add_step", "step": work("late", needs=["new"])},))
            log.gate.set()
            events = await second.ended(run_id)
            state = await second.stored(run_id)
    assert events[-1].type is EventType.RUN_COMPLETED
    assert statuses(state) == dict.fromkeys(("g", "b", "c", "new", "late"), "completed")
    assert (state.steps["b"].output, state.steps["new"].output, state.steps["c"].output) == ("patched", "patched!", 1)
    assert ends(events) == begun(events)
    assert [one for one, _, _ in log.calls].count("g") == 2


async def test_a_step_that_waits_for_room_is_changed_and_starts_once(database: str, tmp_path: Path) -> None:
    limit = {"concurrency": 1}
    holder = {"steps": [step("w", "test.gate", limit=limit)]}
    async with open_room(database, tmp_path, whole=True) as room:
        first = await room.submit(holder)
        await room.until(lambda: len(room.log.calls) == 1)
        # Each sooner than the limit has answered that there is no room.
        spec = {"steps": [step("w", "test.gate", limit=limit), step("x", "test.work", {"value": 1}, needs=["w"])]}
        actors = []
        for turns in range(0, 24, 4):
            actor = await room.submit(spec)
            for _ in range(turns):
                await asyncio.sleep(0)
            await room.ask(
                actor.state.record.id, Patch, operations=({"op": "add_step", "step": work("y", needs=["x"])},)
            )
            actors.append(actor)
        room.log.gate.set()
        for actor in [first, *actors]:
            state = await asyncio.wait_for(asyncio.shield(actor.done), 10)
            assert state.status is RunStatus.COMPLETED
            events = await room.ended(state.record.id)
            assert ends(events) == begun(events)
        assert len(room.log.of("w")) == 1 + len(actors)
        assert sorted(room.log.of("y")) == [NO_ITEM] * len(actors)
        await room.tidy()


async def test_a_completed_run_is_not_changed(database: str, tmp_path: Path) -> None:
    async with open_room(database, tmp_path, whole=True) as room:
        run_id = (await room.run({"steps": [work("a")]})).record.id
        await room.until(lambda: room.engine.active == 0)
        with pytest.raises(Conflict):
            await room.ask(run_id, Patch, operations=({"op": "add_step", "step": work("b")},))


# --- fallback workflows ----------------------------------------------------------------------------------------------

FAILS = {"steps": [step("f", "test.fail"), step("g", "test.gate")], "policies": {"fallback_workflow": "rescue"}}
RESCUE = {
    "steps": [step("r", "test.work", {"value": "{{ context.fallback_step + input.n }}"})],
    "outputs": {"v": "{{ steps.r.output }}"},
}


async def test_another_workflow_makes_up_for_a_run_that_fails(database: str, tmp_path: Path) -> None:
    async with open_room(database, tmp_path, whole=True) as room:
        state = await room.run(FAILS, {"n": "1"})
        assert (state.status, (state.error or {})["class"]) == (RunStatus.FAILED, "network")
        assert "rescue" in str((state.error or {})["fallback_error"])
        await room.save("rescue", RESCUE)
        state = await room.run(FAILS, {"n": "1"})
        assert (state.status, state.outputs) == (RunStatus.COMPLETED, {"v": "f1"})
        assert (state.error or {})["step"] == "f"
        events = await room.ended(state.record.id)
        assert ends(events) == begun(events)
        await room.save("rescue", {"steps": [step("r", "test.fail", {"kind": "policy"})]})
        state = await room.run(FAILS, {"n": "1"})
        assert (state.status, (state.error or {})["class"]) == (RunStatus.FAILED, "network")
        await room.save("rescue", RESCUE)
        late = {"steps": [step("g", "test.gate")], "policies": {**FAILS["policies"], "max_duration": "200ms"}}  # type: ignore[dict-item]
        state = await room.run(late, {"n": "1"})
        assert (state.status, state.outputs, (state.error or {})["class"]) == (
            RunStatus.COMPLETED,
            {"v": "1"},
            "timeout",
        )


@pytest.mark.parametrize("when", ["before", "while", "after"])
async def test_a_fallback_goes_on_after_a_crash(
    database: str, tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.kinship._LOOK_SECONDS", 0.2)
    log = Log()

    async def nothing(*_: Any) -> None: ...

    async with open_room(database, tmp_path, log=log, whole=True) as first:
        await first.save("rescue", {"steps": [step("h", "test.gate")], "outputs": {"v": 1}})
        if when == "before":
            first.engine.launch = nothing  # type: ignore[method-assign]
        if when == "after":
            first.engine._kinship.tell_parent = lambda *_: None  # type: ignore[method-assign]
            log.gate.set()
        actor = await first.submit(FAILS, {"n": "1"})
        run_id = actor.state.record.id
        await first.journalled(run_id, "fallback_started")
        with pytest.raises(Conflict):
            await first.ask(run_id, Redrive, step_id="f")
        if when != "before":
            await first.until(lambda: bool(log.of("h")))
        await asyncio.sleep(0.1)
        await crash(first)
        log.gate.set()
        async with open_room(database, tmp_path, log=log, exclusive=True, whole=True) as second:
            events = await second.ended(run_id)
            assert (events[-1].type, events[-1].payload) == (EventType.RUN_COMPLETED, {"v": 1})
            assert ends(events) == begun(events)
            assert len(await second.rows("SELECT id FROM runs")) == 2
    assert len(log.of("h")) == (2 if when == "while" else 1)
    assert log.of("f") == [NO_ITEM]


async def test_cancelling_a_run_cancels_its_fallback(database: str, tmp_path: Path) -> None:
    async with open_room(database, tmp_path, whole=True) as room:
        await room.save("rescue", HELD)
        actor = await room.submit(FAILS, {"n": "1"})
        await room.until(lambda: len(room.log.of("g")) == 2)
        await room.ask(actor.state.record.id, Cancel)
        await room.until(lambda: room.engine.active == 0)
        assert {one["status"] for one in await room.rows("SELECT status FROM runs")} == {"cancelled"}


async def test_an_engine_that_stops_when_a_run_fails_leaves_the_fallback_to_the_next_one(
    database: str, tmp_path: Path
) -> None:
    log = Log()
    spec = {
        **FAILS,
        "steps": [
            step("slow", "test.work", {"seconds": 0.3}),
            step("f", "test.fail", {"kind": "policy"}, needs=["slow"]),
            work("never", needs=["f"]),
        ],
    }
    async with open_room(database, tmp_path, log=log, whole=True) as first:
        await first.save("rescue", RESCUE)
        actor = await first.submit(spec, {"n": "1"})
        await first.until(lambda: log.open == 1)
    async with open_room(database, tmp_path, log=log, exclusive=True, whole=True) as second:
        events = await second.ended(actor.state.record.id)
        assert (events[-1].type, events[-1].payload) == (EventType.RUN_COMPLETED, {"v": "f1"})
    assert log.of("never") == []


# --- ends ------------------------------------------------------------------------------------------------------------


async def test_a_step_ends_the_run_here_and_now(database: str, tmp_path: Path) -> None:
    async with open_room(database, tmp_path, whole=True) as room:
        for given, status in (
            ({"outputs": {"v": "early"}}, "completed"),
            ({"status": "failed", "message": "no use"}, "failed"),
        ):
            steps = [
                step("g", "test.gate"),
                work("a"),
                step("e", "flow.end", given, needs=["a"]),
                work("n", needs=["e"]),
            ]
            state = await room.run({"steps": steps, "outputs": {"v": "{{ steps.n.output }}"}})
            assert state.status.value == status
            events = await room.ended(state.record.id)
            assert ends(events) == begun(events)
            if status == "completed":
                assert state.outputs == {"v": "early"}
            else:
                assert "no use" in str((state.error or {})["message"])
        assert room.log.of("n") == []
        await room.save("rescue", RESCUE)
        ended = {"steps": [step("e", "flow.end", {"status": "failed"})], "policies": {"fallback_workflow": "rescue"}}
        assert (await room.run(ended, {"n": "1"})).outputs == {"v": "e1"}


async def test_a_run_that_costs_too_much_fails(database: str, tmp_path: Path) -> None:
    log = Log()
    spend = step("s", "test.spend", {"usd": 0.3})
    budget = {"policies": {"cost_budget_usd": 0.5}}
    spec = {
        "steps": [
            spend,
            step("g", "test.gate", needs=["s"]),
            {**spend, "id": "t", "needs": ["g"]},
            work("u", needs=["t"]),
        ],
        **budget,
    }
    async with open_room(database, tmp_path, log=log, whole=True) as first:
        await first.save("dear", {"steps": [{**spend, "with": {"usd": 0.6}}]})
        state = await first.run(
            {"steps": [step("c", "flow.subworkflow", {"workflow": "dear"}), work("u", needs=["c"])], **budget}
        )
        assert (state.status, (state.error or {})["class"]) == (RunStatus.FAILED, "policy")
        failing = {**spend, "with": {"usd": 0.6, "fails": True}, "on_error": "continue"}
        assert (await first.run({"steps": [failing, work("u", needs=["s"])], **budget})).status is RunStatus.FAILED
        actor = await first.submit(spec)
        await first.until(lambda: bool(log.of("g")))
        await crash(first)
        log.gate.set()
        async with open_room(database, tmp_path, log=log, exclusive=True, whole=True) as second:
            events = await second.ended(actor.state.record.id)
            assert (events[-1].type, events[-1].data["error"]["class"]) == (EventType.RUN_FAILED, "policy")
            assert ends(events) == begun(events)
    assert log.of("u") == []


# --- variables -------------------------------------------------------------------------------------------------------


async def test_variables_are_seen_as_they_were_at_the_start_and_as_the_run_sets_them(
    database: str, tmp_path: Path
) -> None:
    log = Log()
    async with open_room(database, tmp_path, log=log, whole=True) as first:
        store = first.stores.variables
        for scope, owner, value in (
            (VariableScope.GLOBAL, "", "g"),
            (VariableScope.WORKFLOW, "flow", "w"),
            (VariableScope.SESSION, "s1", "s"),
        ):
            await store.set(DEFAULT_WORKSPACE, scope, owner, "x", value, None, "ann")
        gone = first.clock.now() - timedelta(seconds=1)
        await store.set(DEFAULT_WORKSPACE, VariableScope.GLOBAL, "", "old", 1, gone, "ann")
        spec = {
            "variables": {"own": 1, "brief": {"value": "b", "ttl": "300ms"}},
            "steps": [
                step("a", "transform.map", {"value": "{{ [vars.x, vars.own, has(vars.old), has(vars.brief)] }}"}),
                step("g", "test.gate", needs=["a"]),
                step("set", "vars.set", {"name": "x", "value": "mine", "scope": "workflow"}, needs=["g"]),
                step("b", "transform.map", {"value": "{{ [vars.x, vars.own, has(vars.brief)] }}"}, needs=["set"]),
            ],
            "outputs": {"v": "{{ [steps.a.output, steps.b.output] }}"},
        }
        plain = (await first.submit(spec)).state.record.id
        session = (await first.submit(spec, options=RunOptions(session="s1"))).state.record.id
        await first.until(lambda: len(log.of("g")) == 2)
        await store.set(DEFAULT_WORKSPACE, VariableScope.SESSION, "s1", "x", "changed", None, "ann")
        await crash(first)
        await asyncio.sleep(0.3)
        log.gate.set()
        async with open_room(database, tmp_path, log=log, exclusive=True, whole=True) as second:
            for run_id, seen in ((plain, "w"), (session, "s")):
                events = await second.ended(run_id)
                assert events[-1].payload == {"v": [[seen, 1, False, True], ["mine", 1, False]]}
            visible = await second.stores.variables.visible(DEFAULT_WORKSPACE, "flow", "", second.clock.now())
            assert visible["x"].value == "mine"


async def test_a_list_made_of_variables_stays_as_it_was_found(database: str, tmp_path: Path) -> None:
    log = Log()
    spec = {
        "variables": {"items": [1, 2]},
        "steps": [
            step("set", "vars.set", {"name": "items", "value": [7]}, needs=["e"]),
            step("e", "test.gate", foreach="{{ vars.items }}"),
            step("c", "flow.foreach", {"items": "{{ vars.items }}", "steps": [step("h", "test.gate")]}),
            step("other", "vars.set", {"name": "items", "value": [8, 9, 10]}),
        ],
        "outputs": {"v": "{{ [size(steps.e.output), size(steps.c.output.results)] }}"},
    }
    async with open_room(database, tmp_path, log=log, whole=True) as first:
        actor = await first.submit(spec)
        await first.until(lambda: len(log.calls) >= 4)
        await asyncio.sleep(0.1)
        sizes = [len(log.of("e")), len(log.of("h"))]
        await crash(first)
        log.gate.set()
        async with open_room(database, tmp_path, log=log, exclusive=True, whole=True) as second:
            events = await second.ended(actor.state.record.id)
            assert events[-1].payload == {"v": sizes}
            assert ends(events) == begun(events)


async def test_a_paused_run_can_be_changed_and_goes_on_as_it_is_then(database: str, tmp_path: Path) -> None:
    async with open_room(database, tmp_path, whole=True) as room:
        actor = await room.submit(HELD)
        run_id = actor.state.record.id
        await room.until(lambda: bool(room.log.calls))
        await room.ask(run_id, Pause)
        await room.ask(run_id, Patch, operations=({"op": "remove_step", "id": "c"},))
        room.log.gate.set()
        await room.ask(run_id, Resume)
        await room.ended(run_id)
        assert statuses(await room.stored(run_id)) == {"g": "completed", "b": "completed"}
