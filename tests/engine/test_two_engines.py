"""Two engines on one database: what is asked of one is done by the other that has the run."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from core.account import Role
from core.command import Breakpoints, Cancel, Decide, Patch, Pause, Redrive, Resolve, Resume, Signal
from core.errors import Conflict, Forbidden, Invalid, RefluxError, Unavailable
from core.run import EventType, RunStatus
from tests.engine.runner_room import Log, Room, begun, crash, ends, open_room
from tests.engine.test_runner import step, work

HELD = {"steps": [step("g", "test.gate"), work("b", needs=["g"])], "outputs": {"v": "{{ steps.b.output }}"}}


async def open_commands(room: Room) -> list[Any]:
    return await room.rows("SELECT command FROM run_commands WHERE done_at IS NULL")


async def test_a_command_is_performed_where_the_run_is(database: str, tmp_path: Path) -> None:
    log = Log()
    async with (
        open_room(database, tmp_path, log=log, whole=True) as owner,
        open_room(database, tmp_path, log=log, whole=True) as other,
    ):
        actor = await owner.submit(HELD)
        run_id = actor.state.record.id
        await owner.until(lambda: bool(log.calls))
        pause = Pause(id=owner.clock.new_id(), by="ann", reason="lunch")
        await other.engine.command(run_id, pause)
        assert (actor.state.status, actor.state.pause_reason) == (RunStatus.PAUSED, "lunch")
        await other.engine.command(run_id, pause)  # delivered twice: done once, and no refusal
        await owner.engine.command(run_id, pause)
        assert [one.type for one in await owner.journalled(run_id, "run_paused")].count(EventType.RUN_PAUSED) == 1
        await other.ask(run_id, Patch, operations=({"op": "update_params", "id": "b", "with": {"value": "far"}},))
        await other.ask(run_id, Signal, name="x", payload={"n": [1, None]})
        assert actor.state.signals[0].payload == {"n": [1, None]}
        await other.ask(run_id, Resume)
        log.gate.set()
        assert (await other.ended(run_id))[-1].payload == {"v": "far"}
        with pytest.raises(Conflict):
            await other.ask(run_id, Cancel)
        await owner.until(lambda: owner.engine.active == 0)
        await other.ask(run_id, Redrive, step_id="b", with_={"value": "again"})
        await other.until(lambda: other.engine.active == 0)
        assert (await other.stored(run_id)).outputs == {"v": "again"}
        assert await open_commands(owner) == []


async def test_a_refusal_comes_back_as_what_it_is(database: str, tmp_path: Path) -> None:
    log = Log()
    async with (
        open_room(database, tmp_path, log=log, whole=True) as owner,
        open_room(database, tmp_path, log=log, whole=True) as other,
    ):
        actor = await owner.submit({"steps": [step("w", "flow.wait", {"approval": True}), step("g", "test.gate")]})
        run_id = actor.state.record.id
        await owner.until(lambda: bool(log.calls) and "w" in {key for key, _ in actor.running})
        refused: list[tuple[type[RefluxError], type, dict[str, Any]]] = [
            (Conflict, Resume, {}),
            (Conflict, Resolve, {"step_id": "g", "outcome": "succeeded"}),
            (Forbidden, Decide, {"step_id": "w", "approved": True, "role": Role.VIEWER}),
            (Invalid, Breakpoints, {"steps": ("nobody",)}),
            (Invalid, Patch, {"operations": ({"op": "remove_step", "id": "g"},)}),
            (Conflict, Redrive, {"step_id": "g"}),
        ]
        before = actor.state.seq
        for error, kind, more in refused:
            with pytest.raises(error) as near:
                await owner.ask(run_id, kind, **more)
            with pytest.raises(error) as far:
                await other.ask(run_id, kind, **more)
            assert near.value.detail == far.value.detail
            if isinstance(near.value, Invalid) and isinstance(far.value, Invalid):
                assert near.value.faults == far.value.faults
        assert actor.state.seq == before
        await other.ask(run_id, Cancel, reason="enough")
        assert (await other.ended(run_id))[-1].type is EventType.RUN_CANCELLED


async def test_what_was_asked_while_nobody_had_the_run_is_done_by_its_heir(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.mail._PATIENCE_SECONDS", 0.5)
    log = Log()
    async with open_room(database, tmp_path, log=log, whole=True) as dead:
        actor = await dead.submit(HELD)
        run_id = actor.state.record.id
        await dead.until(lambda: bool(log.calls))
        await actor.settled()
        async with open_room(database, tmp_path, log=log, whole=True) as other:
            await crash(dead)
            with pytest.raises(Unavailable):
                await other.ask(run_id, Cancel, reason="while nobody had it")
            await other.rows(
                "UPDATE owners SET expires_at = now() - interval '1 minute' WHERE id <> $1", other.engine.owner
            )
            events = await other.ended(run_id)
            assert events[-1].type is EventType.RUN_CANCELLED
            assert ends(events) == begun(events)
            await other.until(lambda: other.engine.active == 0)
            assert await open_commands(other) == []


async def test_a_command_for_a_run_that_has_ended_meanwhile_is_no_burden(database: str, tmp_path: Path) -> None:
    async with open_room(database, tmp_path, whole=True) as room:
        run_id = (await room.run({"steps": [work("a")]})).record.id
        await room.until(lambda: room.engine.active == 0)
        for _ in range(3):
            late = Cancel(id=room.clock.new_id())
            await room.stores.commands.send(run_id, late.id, late.model_dump(mode="json"))
        strange = room.clock.new_id()
        held = await room.submit(HELD)
        await room.until(lambda: bool(room.log.of("g")))
        await held.settled()
        await room.stores.commands.send(held.state.record.id, strange, {"kind": "later", "id": str(strange)})
        async with asyncio.timeout(5):
            while await open_commands(room):
                await asyncio.sleep(0.05)
        settled, refusal = await room.stores.commands.answer(late.id)
        assert (settled, refusal["status"]) == (True, 409)
        settled, refusal = await room.stores.commands.answer(strange)
        assert (settled, refusal["status"]) == (True, 422)
        room.log.gate.set()
        assert (await room.ended(held.state.record.id))[-1].type is EventType.RUN_COMPLETED


async def test_children_that_fell_to_another_engine_end_their_parent(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of two engines has half of a family: the ends are told across, and a cancel goes down across."""
    monkeypatch.setattr("engine.kinship._LOOK_SECONDS", 0.2)
    log = Log()
    async with (
        open_room(database, tmp_path, log=log, whole=True) as one,
        open_room(database, tmp_path, log=log, whole=True) as two,
    ):
        await one.save("part", {"steps": [step("h", "test.gate")], "outputs": {"v": 1}})
        spec = {
            "steps": [step("s", "flow.subworkflow", {"workflow": "part"})],
            "outputs": {"v": "{{ steps.s.output }}"},
        }
        runs = [(await one.submit(spec)).state.record.id for _ in range(2)]
        await one.until(lambda: len(log.of("h")) == 2)
        await one.until(lambda: one.engine.active == 4)
        for actor in list(one.engine._actors.values()):
            await actor.settled()
        await crash(one)
        # The children go to `two`, as if it had been faster; the parents to the next life of `one`.
        await two.rows("UPDATE runs SET owner_id = $1 WHERE NOT id = ANY($2)", two.engine.owner, runs)
        children = [row["id"] for row in await two.rows("SELECT id FROM runs WHERE owner_id = $1", two.engine.owner)]
        two.engine._unloaded.update(children)
        async with asyncio.timeout(6):
            while two.engine.active < 2:
                await asyncio.sleep(0.02)
        await one.engine.start()
        await one.until(lambda: one.engine.ready)
        await one.rows(
            "UPDATE owners SET fenced = true WHERE id <> $1 AND id <> $2", one.engine.owner, two.engine.owner
        )
        async with asyncio.timeout(8):
            while not all(any(room.engine.actor(run) for room in (one, two)) for run in runs):
                await asyncio.sleep(0.02)
        await two.ask(runs[0], Cancel)
        log.gate.set()
        assert (await one.ended(runs[0]))[-1].type is EventType.RUN_CANCELLED
        assert (await one.ended(runs[1]))[-1].payload == {"v": {"v": 1}}
        await one.until(lambda: one.engine.active == two.engine.active == 0)
        found = sorted(row["status"] for row in await one.rows("SELECT status FROM runs"))
        assert found in (
            ["cancelled", "cancelled", "completed", "completed"],
            ["cancelled", "completed", "completed", "completed"],
        )
