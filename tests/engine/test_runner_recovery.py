"""Taking over: from an engine that died, from one that was paused too long, and from one that stopped in order."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from core.errors import Conflict, Unavailable
from core.ids import OwnerId, RunId
from core.journal import Fenced, RunWrite, StoredRun
from core.run import NO_ITEM, EventType, RunEvent, RunStatus, StepStatus
from engine.program import Program
from engine.retry import MAX_LOST
from tests.engine.runner_room import Log, begun, crash, ends, expire_leases, open_room
from tests.engine.test_runner import step, work

GATE = {"steps": [work("first"), step("gate", "test.gate", needs=["first"]), work("last", needs=["gate"])]}


async def owners(dsn: str) -> list[tuple[OwnerId, bool]]:
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch("SELECT id, fenced FROM owners ORDER BY started_at")
        return [(OwnerId(row["id"]), row["fenced"]) for row in rows]
    finally:
        await connection.close()


async def test_a_recovered_run_repeats_what_was_in_flight_and_nothing_else(database: str, tmp_path: Path) -> None:
    log = Log()
    async with open_room(database, tmp_path, log=log) as first:
        actor = await first.submit(GATE)
        await first.until(lambda: "gate" in [one for one, _, _ in log.calls])
        await crash(first)
        async with open_room(database, tmp_path, log=log, exclusive=True) as second:
            log.gate.set()
            events = await second.ended(actor.state.record.id)
    assert log.calls == [("first", NO_ITEM, 1), ("gate", NO_ITEM, 1), ("gate", NO_ITEM, 2), ("last", NO_ITEM, 1)]
    assert ends(events) == begun(events)
    assert len(ends(events)) == 4
    assert [one.seq for one in events] == list(range(1, len(events) + 1))


async def test_an_engine_whose_lease_expired_changes_nothing_and_lives_again(database: str, tmp_path: Path) -> None:
    log = Log()
    async with open_room(database, tmp_path, log=log) as zombie, open_room(database, tmp_path, log=log) as heir:
        ((old, _), *_) = await owners(database)
        actor = await zombie.submit(GATE)
        run_id = actor.state.record.id
        await zombie.until(lambda: "gate" in [one for one, _, _ in log.calls])
        await expire_of(database, old)
        await heir.until(lambda: heir.engine.active == 1)
        # The zombie's own append, late: refused as a whole, also for a run that nobody else has seen.
        event = RunEvent(run_id, 99, EventType.RUN_FAILED, zombie.clock.now(), data={"error": {}})
        with pytest.raises(Fenced):
            await zombie.journal.append(old, [RunWrite(run_id, [event], RunStatus.FAILED)])
        log.gate.set()
        events = await heir.ended(run_id)
        assert events[-1].type is EventType.RUN_COMPLETED
        assert events[-1].seq == len(events) < 99
        assert ends(events) == begun(events)
        # The zombie notices, and works under a new name.
        await zombie.until(lambda: zombie.engine.ready and zombie.engine.active == 0)
        assert actor.done.cancelled()
        assert (await zombie.run({"steps": [work("again")]})).status is RunStatus.COMPLETED
        names = await owners(database)
        assert len(names) == 3
        assert dict(names)[old]


async def expire_of(dsn: str, owner: OwnerId) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("UPDATE owners SET expires_at = now() - interval '1 minute' WHERE id = $1", owner)
    finally:
        await connection.close()


async def test_a_zombie_s_unanswered_request_is_refused_and_does_not_hang(database: str, tmp_path: Path) -> None:
    async with open_room(database, tmp_path) as zombie:
        ((old, _),) = await owners(database)
        connection = await asyncpg.connect(database)
        await connection.execute("UPDATE owners SET fenced = true WHERE id = $1", old)
        await connection.close()
        actors = []
        for _ in range(3):
            with suppress(Unavailable):  # it may have noticed already when the second comes
                actors.append(await zombie.submit({"steps": [work("a")]}))
        assert actors
        for actor in actors:
            with pytest.raises((Fenced, Unavailable)):
                await asyncio.wait_for(actor.accepted(), 5)
        await zombie.until(lambda: zombie.engine.ready)
        assert await zombie.journal.load(actors[0].state.record.id) is None


class Stalled:
    """A journal whose appends do not come back while `stalled`; everything else is the real one's."""

    def __init__(self, journal: Any) -> None:
        self._journal = journal
        self.stalled = asyncio.Event()
        self.go_on = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)

    async def append(self, owner: OwnerId, writes: Any) -> None:
        if self.stalled.is_set():
            await self.go_on.wait()
        await self._journal.append(owner, writes)


async def test_a_request_is_refused_when_the_lease_is_lost_while_its_write_is_under_way(
    database: str, tmp_path: Path
) -> None:
    async with open_room(database, tmp_path, start=False) as zombie:
        stalled = Stalled(zombie.journal)
        zombie.engine._journal = stalled  # type: ignore[assignment]
        await zombie.engine.start()
        ((old, _),) = await owners(database)
        stalled.stalled.set()
        actor = await zombie.submit({"steps": [work("a")]})
        waiting = asyncio.ensure_future(actor.accepted())
        await asyncio.sleep(0.1)
        async with open_room(database, tmp_path):
            await expire_of(database, old)
            with pytest.raises((Fenced, Unavailable)):
                await asyncio.wait_for(waiting, 8)
        stalled.stalled.clear()


async def test_a_graceful_stop_hands_over_at_once(database: str, tmp_path: Path) -> None:
    log = Log()
    async with open_room(database, tmp_path, log=log) as heir:
        async with open_room(database, tmp_path, log=log) as leaving:
            actor = await leaving.submit({"steps": [step("s", "flow.delay", {"seconds": 1.0}), work("b", needs=["s"])]})
            await actor.accepted()
            begun_at = asyncio.get_running_loop().time()
        events = await heir.ended(actor.state.record.id, 6)
        assert asyncio.get_running_loop().time() - begun_at < 5
    assert [one.type for one in events if one.type is EventType.ATTEMPT_FAILED] == []
    assert log.calls == [("b", NO_ITEM, 1)]


async def test_a_graceful_stop_lets_short_attempts_end(database: str, tmp_path: Path) -> None:
    log = Log()
    async with open_room(database, tmp_path, log=log) as leaving:
        actor = await leaving.submit({"steps": [step("s", "test.work", {"seconds": 0.5}), work("b", needs=["s"])]})
        await leaving.until(lambda: log.open == 1)
    async with open_room(database, tmp_path, log=log) as heir:
        events = await heir.ended(actor.state.record.id)
    assert log.calls == [("s", NO_ITEM, 1), ("b", NO_ITEM, 1)]
    assert ends(events) == begun(events) == [("b", NO_ITEM, 1), ("s", NO_ITEM, 1)]


async def die_often(database: str, tmp_path: Path, log: Log, spec: dict[str, Any], times: int) -> RunId:
    """Start a run and crash so often while its step `gate` is in flight."""
    run_id: RunId | None = None
    for _ in range(times):
        async with open_room(database, tmp_path, log=log, exclusive=True) as room:
            seen = len(log.of("gate"))
            if run_id is None:
                run_id = (await room.submit(spec)).state.record.id
            await room.until(lambda n=seen: len(log.of("gate")) > n)  # type: ignore[misc]
            await crash(room)
    assert run_id is not None
    return run_id


async def test_lost_attempts_are_capped_and_do_not_count_as_retries(database: str, tmp_path: Path) -> None:
    log = Log()
    run_id = await die_often(database, tmp_path, log, GATE, MAX_LOST)
    async with open_room(database, tmp_path, log=log, exclusive=True) as room:
        events = await room.ended(run_id)
    assert len(log.of("gate")) == MAX_LOST
    assert events[-1].type is EventType.RUN_FAILED
    assert events[-1].data["error"]["class"] == "worker_lost"
    assert ends(events) == begun(events)


async def test_user_retries_are_counted_apart_from_lost_attempts(database: str, tmp_path: Path) -> None:
    log = Log()
    failing = step(
        "gate", "test.gate", retry={"max_attempts": 2, "initial": "10ms", "on": ["timeout"]}, timeout="300ms"
    )
    run_id = await die_often(database, tmp_path, log, {"steps": [failing]}, 3)
    async with open_room(database, tmp_path, log=log, exclusive=True) as room:
        events = await room.ended(run_id)
    classes = [one.data["error"]["class"] for one in events if one.type is EventType.ATTEMPT_FAILED]
    assert classes == ["worker_lost"] * 3 + ["timeout"] * 2


@pytest.mark.parametrize("rescue", ["continue", {"use": "other"}])
async def test_what_follows_a_step_lost_too_often_runs_once(database: str, tmp_path: Path, rescue: Any) -> None:
    log = Log()
    spec = {"steps": [step("gate", "test.gate", on_error=rescue), work("after", needs=["gate"])]}
    spec["steps"] += [work("other")] if rescue != "continue" else []
    run_id = await die_often(database, tmp_path, log, spec, MAX_LOST)
    async with open_room(database, tmp_path, log=log, exclusive=True) as room:
        events = await room.ended(run_id)
    assert events[-1].type is EventType.RUN_COMPLETED
    assert log.of("after") == [NO_ITEM]
    assert len(log.of("other")) == (0 if rescue == "continue" else 1)
    assert ends(events) == begun(events)


async def test_every_attempt_in_flight_has_an_end_when_recovery_fails_the_run(database: str, tmp_path: Path) -> None:
    log = Log()
    beside = [step("beside", "test.work", {"seconds": 60}), step("asleep", "flow.delay", {"seconds": 60})]
    run_id = await die_often(database, tmp_path, log, {"steps": [step("gate", "test.gate"), *beside]}, MAX_LOST)
    async with open_room(database, tmp_path, log=log, exclusive=True) as room:
        events = await room.ended(run_id)
    assert events[-1].type is EventType.RUN_FAILED
    assert ends(events) == begun(events)


async def test_every_attempt_of_a_foreach_has_an_end_when_its_elements_are_lost_too_often(
    database: str, tmp_path: Path
) -> None:
    log = Log()
    gate = step("gate", "test.gate", foreach=[0, 1, 2], concurrency=3, on_error={"use": "other"})
    run_id = await die_often(database, tmp_path, log, {"steps": [gate, work("other")]}, MAX_LOST)
    async with open_room(database, tmp_path, log=log, exclusive=True) as room:
        events = await room.ended(run_id)
    assert events[-1].type is EventType.RUN_COMPLETED
    assert ends(events) == begun(events)


async def test_a_foreach_goes_on_where_it_was(database: str, tmp_path: Path) -> None:
    log = Log()
    each = {"id": "each", "node": "test.work", "foreach": "{{ input.items }}", "concurrency": 4}
    each["with"] = {"value": "{{ item }}", "seconds": "{{ item < 50 ? 0.0 : 30.0 }}"}
    items = list(range(52)) + [1] * 100
    async with open_room(database, tmp_path, log=log) as first:
        run_id = (
            await first.submit({"steps": [each], "outputs": {"v": "{{ steps.each.output }}"}}, {"items": items})
        ).state.record.id
        await first.until(lambda: len(log.calls) > 100)
        await asyncio.sleep(0.1)
        await crash(first)
        done = {
            one.item for one in await first.journal.events(run_id, 0, 9999) if one.type is EventType.ATTEMPT_SUCCEEDED
        }
        repeated = len(log.calls)
        async with open_room(database, tmp_path, log=log, exclusive=True) as second:
            await second.until(lambda: log.open == 2 and len(log.calls) >= 154)
            await asyncio.sleep(0.1)
            events = await second.journal.events(run_id, 0, 9999)
    again = {item for _, item, _ in log.calls[repeated:]}
    assert again & done == set()
    assert {one.item for one in events if one.type is EventType.ATTEMPT_SUCCEEDED} == set(range(152)) - {50, 51}


async def test_an_unsafe_step_in_flight_asks_a_person(database: str, tmp_path: Path) -> None:
    log = Log()
    run_id: RunId | None = None
    async with open_room(database, tmp_path, log=log) as first:
        steps = [step("gate", "test.unsafe_gate"), work("after", needs=["gate"])]
        run_id = (await first.submit({"steps": steps, "outputs": {"v": "{{ steps.gate.output }}"}})).state.record.id
        await first.until(lambda: len(log.calls) == 1)
        await crash(first)
    async with open_room(database, tmp_path, log=log, exclusive=True) as second:
        await second.until(lambda: second.engine.actor(run_id) is not None)
        actor = second.engine.actor(run_id)
        assert actor is not None
        await second.until(lambda: actor.state.steps["gate"].status is StepStatus.OUTCOME_UNKNOWN)
        assert actor.state.status is RunStatus.WAITING
        with pytest.raises(Conflict):
            await second.resolve(run_id, "after", NO_ITEM, "succeeded", None)
        await second.resolve(run_id, "gate", NO_ITEM, "succeeded", {"told": True})
        with pytest.raises(Conflict):
            await second.resolve(run_id, "gate", NO_ITEM, "failed", None)
        events = await second.ended(run_id)
    assert [one for one, _, _ in log.calls] == ["gate", "after"]
    assert events[-1].payload == {"v": {"told": True}}


async def test_what_a_person_decides_during_a_recovery_is_done_once(database: str, tmp_path: Path) -> None:
    log = Log()
    async with open_room(database, tmp_path, log=log) as first:
        run_id = (await first.submit({"steps": [step("gate", "test.unsafe_gate")]})).state.record.id
        await first.until(lambda: len(log.calls) == 1)
        await crash(first)
    async with open_room(database, tmp_path, log=log, exclusive=True) as second:
        await second.journalled(run_id, "attempt_failed")
        await crash(second)
    async with open_room(database, tmp_path, log=log, exclusive=True) as third:
        async with asyncio.timeout(5):
            while third.engine.actor(run_id) is None:
                await asyncio.sleep(0)
        # The recovery is not durable yet, so nothing of the run goes on: what is asked now waits for it.
        await third.resolve(run_id, "gate", NO_ITEM, "retry", None)
        log.gate.set()
        events = await third.ended(run_id)
    assert events[-1].type is EventType.RUN_COMPLETED
    assert log.calls == [("gate", NO_ITEM, 1), ("gate", NO_ITEM, 2)]
    assert ends(events) == begun(events)


async def test_an_engine_lives_again_after_any_fault_of_the_database(database: str, tmp_path: Path) -> None:
    connection = await asyncpg.connect(database)
    try:
        async with open_room(database, tmp_path) as room:
            await connection.execute("ALTER TABLE owners RENAME TO hidden")
            await room.until(lambda: not room.engine.ready, seconds=10)
            await asyncio.sleep(0.2)
            await connection.execute("ALTER TABLE hidden RENAME TO owners")
            await room.until(lambda: room.engine.ready, seconds=10)
            assert (await room.run({"steps": [work("again")]})).status is RunStatus.COMPLETED
    finally:
        await connection.close()


async def test_a_run_that_cannot_be_taken_up_does_not_stop_the_engine(database: str, tmp_path: Path) -> None:
    log = Log()
    async with open_room(database, tmp_path, log=log) as first:
        bad = (await first.submit(GATE)).state.record.id
        good = (await first.submit(GATE)).state.record.id
        await first.until(lambda: len(log.of("gate")) == 2)
        await crash(first)
        broken = True

        def programs(stored: StoredRun) -> Program:
            if broken and stored.record.id == bad:
                raise ValueError("this run's spec cannot be read by this version")
            return first.programs(stored)

        log.gate.set()
        async with open_room(database, tmp_path, log=log, exclusive=True, programs=programs) as second:
            events = await second.ended(good)
            assert events[-1].type is EventType.RUN_COMPLETED
            assert second.engine.ready
            assert (await second.run({"steps": [work("a")]})).status is RunStatus.COMPLETED
            broken = False
            assert (await second.ended(bad))[-1].type is EventType.RUN_COMPLETED


async def test_two_engines_share_the_work_of_a_dead_one(database: str, tmp_path: Path) -> None:
    log = Log()
    async with open_room(database, tmp_path, log=log) as dead:
        ids = [(await dead.submit(GATE)).state.record.id for _ in range(40)]
        await dead.until(lambda: len(log.of("gate")) == 40)
        await crash(dead)
        log.gate.set()
        await expire_leases(database)
        async with open_room(database, tmp_path, log=log) as one, open_room(database, tmp_path, log=log):
            for run_id in ids:
                events = await one.ended(run_id)
                assert events[-1].type is EventType.RUN_COMPLETED
    assert len(log.of("first")) == len(log.of("last")) == 40
    assert len(log.of("gate")) == 80


async def test_two_engines_that_start_the_same_run_run_it_once(database: str, tmp_path: Path) -> None:
    """As when two processes get the same request under one Idempotency-Key at the same moment."""
    log = Log()
    async with (
        open_room(database, tmp_path, log=log) as one,
        open_room(database, tmp_path, log=log) as other,
    ):
        spec = {"steps": [work("a"), work("b", needs=["a"])]}
        for turn in range(20):
            log.calls.clear()
            run_id = one.clock.new_id()
            actors = [await room.submit(spec, id=run_id) for room in (one, other)]
            await asyncio.gather(*(actor.accepted() for actor in actors))
            events = await one.ended(run_id)
            assert [event.seq for event in events] == list(range(1, len(events) + 1)), turn
            assert len(log.calls) == 2, turn
            assert len(ends(events)) == 2
