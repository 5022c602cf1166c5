"""Steps that wait for an event, a signal, a form, an approval: also while no engine lives."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from core.account import Role
from core.command import Decide, Pause, Proceed, Resume, Signal
from core.errors import Conflict, Forbidden, Invalid
from core.event import Event
from core.ids import DEFAULT_WORKSPACE, RunId
from core.run import NO_ITEM, EventType, RunOptions, RunStatus, StepStatus
from tests.engine.runner_room import Log, Room, begun, crash, ends, open_room
from tests.engine.test_runner import step, work

PAID = step("w", "flow.wait", {"event": "paid", "match": "event.order == input.order"})
FORM = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}, "additionalProperties": False}


async def tell(room: Room, name: str, payload: Any) -> None:
    """Store an event, as another process would: the feeds find it."""
    event = Event(room.clock.new_id(), DEFAULT_WORKSPACE, name, payload, room.clock.now())
    await room.stores.events.add(event, room.clock.now() - timedelta(days=1))


async def waiting(room: Room, spec: dict[str, Any], input_: Any = None) -> RunId:
    """A run that has begun to wait."""
    actor = await room.submit(spec, input_)
    await room.until(lambda: actor.state.status is RunStatus.WAITING)
    await actor.settled()
    return actor.state.record.id


def flow(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"steps": [*steps, work("after", needs=["w"])], "outputs": {"v": "{{ steps.w.output }}"}}


async def test_an_event_wakes_every_run_that_matches_and_no_other(database: str, tmp_path: Path) -> None:
    async with open_room(database, tmp_path, whole=True) as room:
        await tell(room, "paid", {"order": 1, "early": True})
        await asyncio.sleep(0.3)
        runs = [await waiting(room, flow(PAID), {"order": order}) for order in (1, 1, 2)]
        await tell(room, "paid", {"order": 1})
        await tell(room, "paid", "nonsense")
        await tell(room, "paid", {"order": 1, "again": True})
        for run_id in runs[:2]:
            events = await room.ended(run_id)
            assert events[-1].payload == {"v": {"order": 1}}
            assert ends(events) == begun(events) == [("after", NO_ITEM, 1), ("w", NO_ITEM, 1)]
        assert room.state(runs[2]).status is RunStatus.WAITING
        assert room.state(runs[2]).steps["w"].task.waiting == {"reason": "event", "detail": "paid"}
        assert room.parts.waits is not None
        assert len(room.parts.waits) == 1
        await room.cancel(runs[2], "")
        assert len(room.parts.waits) == 0


async def test_an_event_that_came_while_no_engine_lived_is_found(database: str, tmp_path: Path) -> None:
    async with open_room(database, tmp_path, whole=True) as first:
        runs = [await waiting(first, flow(PAID), {"order": order}) for order in (1, 2)]
        await crash(first)
        await tell(first, "paid", {"order": 1})
        async with open_room(database, tmp_path, exclusive=True, whole=True) as second:
            assert (await second.ended(runs[0]))[-1].payload == {"v": {"order": 1}}
            await second.taken_up(runs[1])
            await second.until(lambda: second.parts.waits is not None and len(second.parts.waits) == 1)
            await tell(second, "paid", {"order": 2})
            events = await second.ended(runs[1])
            assert events[-1].payload == {"v": {"order": 2}}
            assert ends(events) == begun(events)
            assert len(second.parts.waits or ()) == 0


async def test_a_signal_is_kept_until_a_step_takes_it_and_taken_once(database: str, tmp_path: Path) -> None:
    hold = step("first", "test.gate")
    waits = [step(name, "flow.wait", {"event": "go"}, needs=["first"]) for name in ("w", "x")]
    spec = {"steps": [hold, *waits], "outputs": {"v": "{{ [steps.w.output, steps.x.output] }}"}}
    log = Log()
    async with open_room(database, tmp_path, log=log, whole=True) as first:
        actor = await first.submit(spec)
        run_id = actor.state.record.id
        await first.until(lambda: bool(log.calls))
        signal = Signal(id=first.clock.new_id(), name="go", payload=1)
        await first.engine.command(run_id, signal)
        await first.engine.command(run_id, signal)
        await first.ask(run_id, Signal, name="other", payload=0)
        await crash(first)
        log.gate.set()
        async with open_room(database, tmp_path, log=log, exclusive=True, whole=True) as second:
            state = (await second.taken_up(run_id)).state
            await second.until(lambda: state.steps["first"].status is StepStatus.COMPLETED and state.asleep == 1)
            assert [one.name for one in state.signals] == ["other"]
            await second.engine.command(run_id, signal)
            await asyncio.sleep(0.05)
            assert state.status is RunStatus.WAITING
            await second.ask(run_id, Signal, name="go", payload=2)
            events = await second.ended(run_id)
    assert sorted(events[-1].payload["v"]) == [1, 2]  # type: ignore[index, call-overload]
    assert ends(events) == begun(events)


async def test_a_form_takes_what_fits(database: str, tmp_path: Path) -> None:
    async with open_room(database, tmp_path, whole=True) as first:
        run_id = await waiting(first, flow(step("w", "flow.wait", {"form": FORM, "message": "How many?"})))
        other = await waiting(first, flow(step("w", "flow.wait", {"form": FORM, "on_reject": "continue"})))
        with pytest.raises(Conflict):
            await first.ask(run_id, Decide, step_id="after", approved=True, role=Role.ADMIN)
        await crash(first)
        async with open_room(database, tmp_path, exclusive=True, whole=True) as second:
            await second.taken_up(run_id)
            for wrong in ({}, {"n": "x"}, {"n": 1, "m": 2}, None):
                with pytest.raises(Invalid):
                    await second.ask(run_id, Decide, step_id="w", approved=True, payload=wrong, role=Role.EDITOR)
            with pytest.raises(Forbidden):
                await second.ask(run_id, Decide, step_id="w", approved=True, payload={"n": 1}, role=Role.VIEWER)
            await second.ask(run_id, Decide, step_id="w", approved=True, payload={"n": 1}, role=Role.EDITOR, by="ann")
            events = await second.ended(run_id)
            assert events[-1].payload == {"v": {"n": 1}}
            assert ends(events) == begun(events)
            assert next(one.data["by"] for one in events if one.step_id == "w" and "by" in one.data) == "ann"
            await second.taken_up(other)
            await second.ask(other, Decide, step_id="w", approved=False, role=Role.EDITOR, by="ann", comment="no")
            assert (await second.ended(other))[-1].payload == {"v": {"approved": False, "by": "ann", "comment": "no"}}


async def test_an_approval_is_given_or_refused_once(database: str, tmp_path: Path) -> None:
    ask = step("w", "flow.wait", {"approval": True})
    async with open_room(database, tmp_path, whole=True) as room:
        run_id = await waiting(room, flow(ask))
        with pytest.raises(Forbidden):
            await room.ask(run_id, Decide, step_id="w", approved=True, role=Role.EDITOR)
        said = Decide(id=room.clock.new_id(), step_id="w", approved=True, role=Role.APPROVER, by="ann")
        await room.engine.command(run_id, said)
        events = await room.ended(run_id)
        assert events[-1].payload == {"v": {"approved": True, "by": "ann", "comment": ""}}

        slow = {"steps": [ask, step("gate", "test.gate", needs=["w"])]}
        run_id = await waiting(room, slow)
        said = said.model_copy(update={"id": room.clock.new_id()})
        await room.engine.command(run_id, said)
        await room.engine.command(run_id, said)  # delivered twice, performed once, and no refusal
        with pytest.raises(Conflict):
            await room.ask(run_id, Decide, step_id="w", approved=False, role=Role.APPROVER)

        run_id = await waiting(room, flow(ask))
        await room.ask(run_id, Decide, step_id="w", approved=False, role=Role.ADMIN, by="bob", comment="too dear")
        events = await room.ended(run_id)
        assert (events[-1].type, events[-1].data["error"]["class"]) == (EventType.RUN_FAILED, "policy")
        assert "too dear" in events[-1].data["error"]["message"]


@pytest.mark.parametrize(("kind", "late"), [({"event": "e"}, None), ({"approval": True}, False)])
async def test_a_wait_ends_in_time_also_after_a_crash(database: str, tmp_path: Path, kind: Any, late: Any) -> None:
    async with open_room(database, tmp_path, whole=True) as first:
        fails = await waiting(first, flow(step("w", "flow.wait", {**kind, "timeout": "400ms"})))
        goes = await waiting(
            first, flow(step("w", "flow.wait", {**kind, "timeout": "400ms", "on_timeout": "continue"}))
        )
        await crash(first)
        async with open_room(database, tmp_path, exclusive=True, whole=True) as second:
            events = await second.ended(fails)
            assert (events[-1].type, events[-1].data["error"]["class"]) == (EventType.RUN_FAILED, "timeout")
            assert (
                next(one.data["trace"]["status"] for one in events if one.type is EventType.ATTEMPT_FAILED) == "timeout"
            )
            output = (await second.ended(goes))[-1].payload["v"]  # type: ignore[index, call-overload]
            assert (output if late is None else output["approved"]) == late


async def test_what_comes_during_a_pause_is_taken_and_nothing_goes_on(database: str, tmp_path: Path) -> None:
    async with open_room(database, tmp_path, whole=True) as first:
        told = await waiting(first, flow(PAID), {"order": 1})
        late = await waiting(
            first, flow(step("w", "flow.wait", {"event": "e", "timeout": "300ms", "on_timeout": "continue"}))
        )
        for run_id in (told, late):
            await first.ask(run_id, Pause)
        await asyncio.sleep(0.4)
        await crash(first)
        await tell(first, "paid", {"order": 1})
        async with open_room(database, tmp_path, exclusive=True, whole=True) as second:
            states = [(await second.taken_up(one)).state for one in (told, late)]
            await second.journalled(told, "attempt_succeeded")
            await asyncio.sleep(0.1)
            assert [one.status for one in states] == [RunStatus.PAUSED] * 2
            assert second.log.calls == []
            for run_id in (told, late):
                await second.ask(run_id, Resume)
            assert (await second.ended(told))[-1].payload == {"v": {"order": 1}}
            assert (await second.ended(late))[-1].payload == {"v": None}


async def test_a_condition_that_is_no_expression_fails_its_step(database: str, tmp_path: Path) -> None:
    async with open_room(database, tmp_path, whole=True) as room:
        actor = await room.submit({"steps": [PAID]}, options=RunOptions(breakpoints=("w",)))
        await room.until(lambda: actor.state.status is RunStatus.WAITING)
        run_id = actor.state.record.id
        await room.ask(run_id, Proceed, with_={"match": "event.x =="})
        events = await room.ended(run_id)
        assert (events[-1].type, events[-1].data["error"]["class"]) == (EventType.RUN_FAILED, "expression")
        assert ends(events) == begun(events)


async def test_each_element_of_a_list_waits_for_itself(database: str, tmp_path: Path) -> None:
    wait = step("w", "flow.wait", {"event": "paid", "match": "event.order == input.order"}, foreach=[1, 2])
    async with open_room(database, tmp_path, whole=True) as first:
        run_id = await waiting(first, flow(wait), {"order": 7})
        await crash(first)
        async with open_room(database, tmp_path, exclusive=True, whole=True) as second:
            await second.taken_up(run_id)
            await second.until(lambda: second.parts.waits is not None and len(second.parts.waits) == 2)
            await tell(second, "paid", {"order": 7})
            events = await second.ended(run_id)
    assert events[-1].payload == {"v": [{"order": 7}, {"order": 7}]}
    assert ends(events) == begun(events)
