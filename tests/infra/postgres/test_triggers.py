import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from core.errors import Conflict, Invalid, NotFound, Unavailable
from core.firing import Claim, Firing, FiringStatus
from core.ids import Workspace
from engine.expression.evaluator import Evaluator
from engine.triggers.webhook import WebhookRequest
from infra.postgres.connection import create_engine
from tests.conftest import ManualClock
from tests.engine.triggers.runs import Runs
from tests.infra.postgres.trigger_room import HERE, Room, adapter

HOURLY = {"type": "cron", "name": "hourly", "schedule": "0 * * * *"}
HOOK = {"type": "webhook", "name": "hook", "path": "charge"}
PAID = {"type": "event", "name": "order.paid"}
ON_PAID = {"type": "event", "name": "on_paid", "event": "order.paid"}
STARTED, SKIPPED, REFUSED = FiringStatus.STARTED, FiringStatus.SKIPPED, FiringStatus.REFUSED
FAILED, RESERVED, DUPLICATE = FiringStatus.FAILED, FiringStatus.RESERVED, FiringStatus.DUPLICATE


@pytest.fixture(scope="module")
async def evaluator() -> AsyncIterator[Evaluator]:
    evaluator = Evaluator()
    yield evaluator
    await evaluator.aclose()


@pytest.fixture
def room(engine: AsyncEngine, manual_clock: ManualClock, evaluator: Evaluator) -> Room:
    return Room(engine, manual_clock, evaluator)


def statuses(firings: list[Firing]) -> list[FiringStatus]:
    return [one.status for one in firings]


def posted(body: bytes = b"{}", method: str = "POST", **headers: str) -> WebhookRequest:
    return WebhookRequest(method, {name.replace("_", "-"): value for name, value in headers.items()}, body)


# --- what is stored --------------------------------------------------------------------------------------------------


async def test_a_new_version_brings_its_triggers_and_keeps_pauses(room: Room, manual_clock: ManualClock) -> None:
    workflow = await room.workflow("shop", HOURLY, HOOK)
    hourly = await room.named("hourly")
    assert hourly.next_at == manual_clock.now() + timedelta(hours=1)
    await room.service.set_paused(HERE, hourly.id, True)
    manual_clock.advance(60)
    await room.sync(workflow, {**HOURLY, "missed": "all"}, PAID)
    again = await room.named("hourly")
    assert (again.id, again.paused, again.next_at) == (hourly.id, True, None)
    assert {one.name for one in (await room.table.list(HERE)).items} == {"hourly", "order.paid"}
    with pytest.raises(NotFound):
        await room.service.webhooks("charge")
    await room.service.set_paused(HERE, hourly.id, False)
    assert (await room.named("hourly")).next_at is not None


async def test_a_trigger_that_comes_back_is_the_same_one(room: Room) -> None:
    workflow = await room.workflow("shop", HOURLY)
    before = await room.named("hourly")
    await room.service.fire(before, None, "tests")
    await room.sync(workflow)
    await room.sync(workflow, HOURLY)
    assert (await room.named("hourly")).id == before.id
    assert statuses(await room.history("hourly")) == [STARTED]


async def test_enabled_counts_when_it_changes(room: Room) -> None:
    workflow = await room.workflow("shop", {**HOURLY, "enabled": False})
    off = await room.named("hourly")
    assert (off.paused, off.next_at) == (True, None)
    await room.service.set_paused(HERE, off.id, False)
    await room.sync(workflow, {**HOURLY, "enabled": False, "input": {"x": 1}})
    assert not (await room.named("hourly")).paused
    await room.service.set_paused(HERE, off.id, True)
    await room.sync(workflow, HOURLY)
    assert not (await room.named("hourly")).paused


async def test_a_time_that_is_due_survives_a_new_version(room: Room, manual_clock: ManualClock) -> None:
    workflow = await room.workflow("shop", HOURLY)
    due = (await room.named("hourly")).next_at
    manual_clock.advance(3600)
    await room.sync(workflow, {**HOURLY, "input": {"x": 1}})
    assert (await room.named("hourly")).next_at == due
    await room.sync(workflow, {**HOURLY, "schedule": "30 * * * *"})
    assert (await room.named("hourly")).next_at == manual_clock.now() + timedelta(minutes=30)


async def test_a_path_belongs_to_one_trigger(room: Room) -> None:
    shop = await room.workflow("shop", HOOK)
    with pytest.raises(Conflict, match="`hook` of the workflow `shop`"):
        await room.workflow("other", HOOK)
    other = await room.workflow("other")
    with pytest.raises(Conflict, match="shop"):
        await room.sync(other, HOOK)
    (hook,) = adapter.validate_python([HOOK])
    with pytest.raises(Conflict, match="shop"):
        await room.service.create(HERE, other, hook)
    await room.sync(shop, HOOK, {**HOOK, "name": "second", "path": "pay"})
    await room.sync(shop, {**HOOK, "path": "pay"}, {**HOOK, "name": "second"})
    assert [(await room.service.webhooks(one))[0].name for one in ("pay", "charge")] == ["hook", "second"]
    await room.sync(shop)
    await room.sync(other, HOOK)
    assert (await room.service.webhooks("charge"))[0].workflow == "other"


async def test_two_workflows_that_want_a_path_at_once(room: Room) -> None:
    ids = [await room.workflow(f"w{number}") for number in range(4)]
    found = await asyncio.gather(*(room.sync(one, HOOK) for one in ids), return_exceptions=True)
    assert [type(one) for one in found if one] == [Conflict] * 3
    assert len(await room.service.webhooks("charge")) == 1


async def test_triggers_beside_the_spec(room: Room) -> None:
    workflow = await room.workflow("shop", HOURLY)
    (hook, hourly) = adapter.validate_python([HOOK, HOURLY])
    made = await room.service.create(HERE, workflow, hook)
    assert not made.from_spec
    with pytest.raises(Conflict, match="already"):
        await room.service.create(HERE, workflow, hourly)
    with pytest.raises(Conflict, match="beside the spec"):
        await room.sync(workflow, HOURLY, {**HOOK, "path": "other"})
    await room.sync(workflow)
    assert [one.name for one in (await room.table.list(HERE)).items] == ["hook"]
    await room.service.delete(HERE, made.id)
    assert (await room.service.create(HERE, workflow, hook)).id == made.id
    await room.service.remove_all(workflow)
    with pytest.raises(NotFound):
        await room.table.get(HERE, made.id)


async def test_what_stands_in_a_spec_is_not_deleted(room: Room) -> None:
    await room.workflow("shop", HOURLY)
    trigger = await room.named("hourly")
    with pytest.raises(Conflict, match="out of the spec"):
        await room.service.delete(HERE, trigger.id)
    with pytest.raises(NotFound):
        await room.service.delete(Workspace("there"), trigger.id)


async def test_lists_have_pages_and_filters(room: Room) -> None:
    shop = await room.workflow("shop", HOURLY, HOOK, PAID, {"type": "manual"})
    await room.workflow("other", {**HOURLY, "name": "too"})
    first = await room.table.list(HERE, limit=3)
    rest = await room.table.list(HERE, limit=3, cursor=first.next_cursor)
    names = [one.name for one in (*first.items, *rest.items)]
    assert (len(names), len(set(names)), rest.next_cursor) == (5, 5, None)
    assert len((await room.table.list(HERE, workflow_id=shop)).items) == 4
    assert {one.name for one in (await room.table.list(HERE, kind="cron")).items} == {"hourly", "too"}
    assert not (await room.table.list(Workspace("there"))).items


# --- the clock -------------------------------------------------------------------------------------------------------


async def test_a_cron_trigger_fires_and_moves_on(room: Room, manual_clock: ManualClock) -> None:
    given = {"at": "{{ trigger.scheduled_for }}", "n": 1}
    await room.workflow("shop", {**HOURLY, "input": given})
    assert await room.service._cron.fire_due() == 0
    manual_clock.advance(3601)
    assert await room.service._cron.fire_due() == 1
    assert await room.service._cron.fire_due() == 0
    assert room.runs.inputs == [{"at": "2026-03-14T10:00:00Z", "n": 1}]
    (run,) = room.runs.runs.values()
    assert (run["by"], run["context"]) == ("trigger:hourly", {"trigger": "hourly", "trigger_type": "cron"})
    (fired,) = await room.history("hourly")
    assert (fired.status, fired.scheduled_for) == (STARTED, manual_clock.now().replace(second=0))


@pytest.mark.parametrize(
    ("missed", "expected"),
    [("skip", [SKIPPED]), ("once", [SKIPPED, STARTED]), ("all", [STARTED] * 5)],
)
async def test_after_an_outage(
    room: Room, manual_clock: ManualClock, missed: str, expected: list[FiringStatus]
) -> None:
    await room.workflow("shop", {**HOURLY, "missed": missed})
    manual_clock.advance(5 * 3600 + 600)
    await room.service._cron.fire_due()
    history = await room.history("hourly")
    assert statuses(history) == expected
    assert all(one.reason for one in history if one.status is SKIPPED)


async def test_a_paused_trigger_does_not_fire_and_makes_up_for_nothing(room: Room, manual_clock: ManualClock) -> None:
    await room.workflow("shop", {**HOURLY, "missed": "all"})
    trigger = await room.named("hourly")
    await room.service.set_paused(HERE, trigger.id, True)
    manual_clock.advance(7200)
    assert await room.service._cron.fire_due() == 0
    await room.service.set_paused(HERE, trigger.id, False)
    assert await room.service._cron.fire_due() == 0
    assert not await room.history("hourly")


async def test_an_input_that_cannot_be_made_fails_and_does_not_stop_the_clock(
    room: Room, manual_clock: ManualClock
) -> None:
    await room.workflow("shop", {**HOURLY, "input": {"x": "{{ trigger.nothing }}"}}, {**HOURLY, "name": "fine"})
    manual_clock.advance(3601)
    await room.service._cron.fire_due()
    (failed,) = await room.history("hourly")
    assert failed.status is FAILED
    assert "nothing" in (failed.reason or "")
    assert statuses(await room.history("fine")) == [STARTED]
    assert (await room.named("hourly")).next_at is not None


async def test_each_time_fires_once_with_four_processes(
    postgres: Any, database: str, engine: AsyncEngine, evaluator: Evaluator
) -> None:
    """Each with its own connections and its own clock, that is up to two seconds off."""
    engines = [create_engine(database) for _ in range(4)]
    clocks = [ManualClock() for _ in engines]
    for number, clock in enumerate(clocks):
        clock.advance(number * 0.6)
        clock._ids = number * 1_000_000
    runs = Runs()
    rooms = [Room(one, clock, evaluator, runs) for one, clock in zip(engines, clocks, strict=True)]
    every = {"type": "cron", "schedule": "* * * * *", "missed": "all", "input": {"at": "{{ trigger.scheduled_for }}"}}
    await rooms[0].workflow("shop", *({**every, "name": f"t{number}"} for number in range(20)))
    try:
        for _ in range(20):
            for clock in clocks:
                clock.advance(60)
            await asyncio.gather(*(room.service._cron.fire_due() for room in rooms for _ in range(2)))
    finally:
        for one in engines:
            await one.dispose()
    fired = Counter((run["by"], run["input"]["at"]) for run in runs.runs.values())
    assert len(fired) == 20 * 20
    assert set(fired.values()) == {1}
    assert set(runs.calls.values()) == {1}


async def test_a_claim_that_was_planned_from_an_older_state_changes_nothing(
    room: Room, manual_clock: ManualClock
) -> None:
    workflow = await room.workflow("shop", HOURLY)
    manual_clock.advance(3601)
    (planned,) = await room.table.due(manual_clock.now(), 10)
    assert planned.next_at is not None
    claim = Claim(planned.id, planned.next_at, planned.next_at + timedelta(hours=1), ())
    await room.sync(workflow, {**HOURLY, "schedule": "30 * * * *"})
    await room.table.claim([claim])
    assert (await room.named("hourly")).next_at == planned.next_at + timedelta(minutes=30)
    await room.service.set_paused(HERE, planned.id, True)
    await room.table.claim([claim])
    assert (await room.named("hourly")).next_at is None


async def test_a_process_that_dies_after_recording_is_made_up_for(room: Room, manual_clock: ManualClock) -> None:
    await room.workflow("shop", HOURLY)
    manual_clock.advance(3601)
    room.runs.dies = True
    with pytest.raises(asyncio.CancelledError):
        await room.service._cron.fire_due()
    (reserved,) = await room.history("hourly")
    assert reserved.status is RESERVED
    room.runs.dies = False
    others = [Room(room.engine, manual_clock, room.evaluator, room.runs) for _ in range(3)]
    manual_clock.advance(4)
    assert [await one.service._starter.sweep() for one in others] == [0, 0, 0]  # it may still be at it
    manual_clock.advance(2)
    assert sum(await asyncio.gather(*(one.service._starter.sweep() for one in others))) == 1
    assert list(room.runs.calls.items()) == [(reserved.run_id, 1)]
    assert statuses(await room.history("hourly")) == [STARTED]


async def test_what_cannot_start_is_tried_again_and_given_up_after_a_day(room: Room, manual_clock: ManualClock) -> None:
    await room.workflow("shop", HOURLY)
    room.runs.away = True
    await room.service.fire(await room.named("hourly"), None, "tests")
    for _ in range(3):
        manual_clock.advance(10)
        assert await room.service._starter.sweep() == 0
    assert statuses(await room.history("hourly")) == [RESERVED]
    manual_clock.advance(86_401)
    await room.service._starter.sweep()
    assert statuses(await room.history("hourly")) == [FAILED]


async def test_a_workflow_that_is_gone(room: Room, manual_clock: ManualClock) -> None:
    await room.workflow("shop", HOURLY)
    room.runs.gone = True
    manual_clock.advance(3601)
    await room.service._cron.fire_due()
    assert statuses(await room.history("hourly")) == [FAILED]


async def test_the_loops_do_it_by_themselves(
    engine: AsyncEngine, evaluator: Evaluator, manual_clock: ManualClock
) -> None:
    room = Room(engine, manual_clock, evaluator)
    await room.workflow("shop", HOURLY)
    room.service.start()
    manual_clock.advance(3601)
    for _ in range(100):
        if room.runs.runs:
            break
        await asyncio.sleep(0.02)
    await room.service.aclose()
    assert len(room.runs.runs) == 1


# --- requests --------------------------------------------------------------------------------------------------------


async def hook(room: Room, **more: Any) -> Any:
    await room.workflow("shop", {**HOOK, **more})
    return (await room.service.webhooks("charge"))[0]


async def test_a_delivery_that_comes_again_is_answered_with_the_first_run(room: Room) -> None:
    trigger = await hook(room, unit_key="body.customer")
    first = await room.service.webhook(trigger, posted(b'{"customer": 7}', x_reflux_delivery="d1"))
    again = await room.service.webhook(trigger, posted(b'{"customer": 8}', webhook_id="d1"))
    other = await room.service.webhook(trigger, posted(b'{"customer": 7}'))
    assert (first.replayed, again.replayed, other.replayed) == (False, True, False)
    assert first.firing.run_id == again.firing.run_id != other.firing.run_id
    assert room.runs.inputs == [{"customer": 7}, {"customer": 7}]
    assert [one["unit_key"] for one in room.runs.runs.values()] == ["7", "7"]
    history = await room.history("hook")
    assert statuses(history) == [STARTED, DUPLICATE, STARTED]
    assert history[1].run_id == first.firing.run_id


async def test_many_at_once_with_one_id_are_one_run(room: Room) -> None:
    trigger = await hook(room)
    request = posted(x_github_delivery="d1")
    found = await asyncio.gather(*(room.service.webhook(trigger, request) for _ in range(8)))
    assert len({one.firing.run_id for one in found}) == 1
    assert [one.replayed for one in found].count(False) == 1
    assert list(room.runs.calls.values()) == [1]


async def test_a_refused_delivery_may_be_sent_again(room: Room) -> None:
    trigger = await hook(room)
    for _ in range(2):
        with pytest.raises(Invalid):
            await room.service.webhook(trigger, posted(b'{"wrong": 1}', x_reflux_delivery="d1"))
    mended = await room.service.webhook(trigger, posted(b'{"right": 1}', x_reflux_delivery="d1"))
    assert not mended.replayed
    history = await room.history("hook")
    assert statuses(history) == [REFUSED, REFUSED, STARTED]
    assert [one.run_id is None for one in history] == [True, True, False]


async def test_an_engine_that_is_away_does_not_lose_a_delivery(room: Room, manual_clock: ManualClock) -> None:
    trigger = await hook(room)
    room.runs.away = True
    accepted = await room.service.webhook(trigger, posted(b'{"x": 1}'))
    room.runs.away = False
    manual_clock.advance(6)
    assert await room.service._starter.sweep() == 1
    assert list(room.runs.runs) == [accepted.firing.run_id]


async def test_a_unit_key_that_is_not_there(room: Room) -> None:
    trigger = await hook(room, unit_key="body.customer")
    with pytest.raises(Invalid, match="customer"):
        await room.service.webhook(trigger, posted())
    assert statuses(await room.history("hook")) == [FAILED]


async def test_a_secret_that_is_not_stored(room: Room) -> None:
    trigger = await hook(room, secret="NOT_THERE")
    with pytest.raises(Unavailable) as found:
        await room.service.check_signature(trigger, posted(x_reflux_signature="sha256="))
    assert "NOT_THERE" not in found.value.detail


async def test_a_paused_webhook(room: Room) -> None:
    trigger = await hook(room, enabled=False)
    with pytest.raises(Conflict, match="paused"):
        await room.service.webhook(trigger, posted())
    assert (await room.service.fire(trigger, {"x": 1}, "tests")).status is STARTED


# --- people ----------------------------------------------------------------------------------------------------------


async def test_firing_by_hand(room: Room) -> None:
    await room.workflow(
        "shop",
        {**HOURLY, "input": {"at": "{{ trigger.scheduled_for }}"}},
        {**ON_PAID, "input": {"id": "{{ event.id }}"}, "correlation": "event.id"},
        {"type": "manual", "input": {"a": 1, "b": 2}},
    )
    await room.service.fire(await room.named("hourly"), None, "tests")
    await room.service.fire(await room.named("hourly"), {"own": True}, "tests")
    await room.service.fire(await room.named("on_paid"), {"id": "o1"}, "tests")
    await room.service.fire(await room.named("manual"), {"b": 3}, "tests")
    assert room.runs.inputs == [{"at": "2026-03-14T09:00:00Z"}, {"own": True}, {"id": "o1"}, {"a": 1, "b": 3}]
    assert {one["by"] for one in room.runs.runs.values()} == {"tests"}
    with pytest.raises(Invalid):
        await room.service.fire(await room.named("on_paid"), {}, "tests")
    assert statuses(await room.history("on_paid")) == [STARTED, FAILED]


async def test_the_same_request_again_is_the_same_run(room: Room) -> None:
    await room.workflow("shop", HOURLY)
    reserved = room.clock.new_id()
    trigger = await room.named("hourly")
    found = [await room.service.fire(trigger, {}, "tests", reserved) for _ in range(2)]
    assert {one.run_id for one in found} == {reserved}
    assert list(room.runs.calls.values()) == [1]


async def test_history_is_forgotten_in_time(room: Room, manual_clock: ManualClock, engine: AsyncEngine) -> None:
    await room.workflow("shop", HOURLY)
    await room.service.fire(await room.named("hourly"), {}, "tests")
    room.runs.away = True
    await room.service.fire(await room.named("hourly"), {}, "tests")
    manual_clock.advance(3600)
    assert await room.firings.expire(manual_clock.now()) == 1
    assert statuses(await room.history("hourly")) == [RESERVED]
    async with engine.begin() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM firings")) == 1
