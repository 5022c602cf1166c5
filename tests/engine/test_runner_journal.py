"""What `engine.ports.Journal` promises, of the real one."""

import dataclasses
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from core.errors import Unavailable
from core.ids import DEFAULT_WORKSPACE, OwnerId, RunId, WorkflowId
from core.journal import Fenced, RunWrite
from core.run import EventType, RunEvent, RunRecord, RunStatus
from infra.clock import SystemClock
from infra.objects import Objects
from infra.postgres.journal import PAYLOAD_INLINE_BYTES, PostgresJournal

CLOCK = SystemClock()


@pytest.fixture
async def journal(database: str, tmp_path: Path) -> AsyncIterator[PostgresJournal]:
    opened = PostgresJournal(database, Objects.open(tmp_path / "objects"))
    yield opened
    await opened.aclose()


async def owner(journal: PostgresJournal, seconds: float = 60.0, exclusive: bool = False) -> OwnerId:
    new = OwnerId(CLOCK.new_id())
    await journal.register(new, seconds, exclusive)
    return new


def created(payload: object = None) -> RunWrite:
    run_id = RunId(CLOCK.new_id())
    record = RunRecord(
        id=run_id,
        workspace=DEFAULT_WORKSPACE,
        workflow_id=WorkflowId(uuid.UUID(int=1)),
        workflow="flow",
        workflow_version=1,
        created_at=CLOCK.now(),
        input=payload,  # type: ignore[arg-type]
        context={"tier": "gold"},
        pins={"a": "1.0.0"},
    )
    event = RunEvent(run_id, 1, EventType.RUN_CREATED, CLOCK.now(), payload=payload)  # type: ignore[arg-type]
    return RunWrite(run_id, [event], RunStatus.RUNNING, record)


async def test_what_is_appended_is_loaded(journal: PostgresJournal) -> None:
    me = await owner(journal)
    write = created({"small": 1})
    await journal.append(me, [write])
    stored = await journal.load(write.run_id)
    assert stored is not None
    assert stored.record == write.created
    assert list(stored.events) == list(write.events)
    assert await journal.load(RunId(CLOCK.new_id())) is None


async def test_large_payloads_come_back(journal: PostgresJournal) -> None:
    me = await owner(journal)
    write = created("x" * (PAYLOAD_INLINE_BYTES + 1))
    await journal.append(me, [write])
    stored = await journal.load(write.run_id)
    assert stored is not None
    assert stored.events[0].payload == stored.record.input == "x" * (PAYLOAD_INLINE_BYTES + 1)


async def test_appending_again_changes_nothing(journal: PostgresJournal) -> None:
    me = await owner(journal)
    write = created()
    for _ in range(2):
        await journal.append(me, [write])
    assert len(await journal.events(write.run_id, 0, 10)) == 1


async def test_an_append_is_all_or_nothing(journal: PostgresJournal) -> None:
    me = await owner(journal)
    good, bad = created(), created()
    assert bad.created is not None
    bad = dataclasses.replace(bad, created=dataclasses.replace(bad.created, unit_key="\x00"))
    with pytest.raises(Exception, match="0x00"):
        await journal.append(me, [good, bad])
    assert await journal.load(good.run_id) is None


async def test_a_fenced_owner_changes_nothing(journal: PostgresJournal) -> None:
    old = await owner(journal)
    write = created()
    await journal.append(old, [write])
    await owner(journal, exclusive=True)
    more = RunEvent(write.run_id, 2, EventType.RUN_CANCELLED, CLOCK.now())
    fresh = created()
    with pytest.raises(Fenced):
        await journal.append(old, [RunWrite(write.run_id, [more], RunStatus.CANCELLED), fresh])
    assert len(await journal.events(write.run_id, 0, 10)) == 1
    assert await journal.load(fresh.run_id) is None
    assert not await journal.renew(old, 60)


async def test_adoption_takes_from_the_dead_only_and_each_run_once(journal: PostgresJournal) -> None:
    dead, alive = await owner(journal, -1.0), await owner(journal)
    lost, kept, ended = [created() for _ in range(5)], created(), created()
    await journal.append(dead, [*lost, dataclasses.replace(ended, finished_at=CLOCK.now())])
    await journal.append(alive, [kept])
    heir, rival = await owner(journal), await owner(journal)
    first = await journal.adopt(heir, 3)
    second = await journal.adopt(rival, 10)
    assert (len(first), len(second)) == (3, 2)
    assert {*first, *second} == {one.run_id for one in lost}
    assert await journal.adopt(heir, 10) == []
    with pytest.raises(Fenced):
        await journal.append(dead, [created()])


async def test_release_hands_over_at_once(journal: PostgresJournal) -> None:
    leaving, staying = await owner(journal), await owner(journal)
    write = created()
    await journal.append(leaving, [write])
    assert await journal.adopt(staying, 10) == []
    await journal.release(leaving)
    assert await journal.adopt(staying, 10) == [write.run_id]


async def test_a_fenced_owner_adopts_nothing(journal: PostgresJournal) -> None:
    dead, zombie = await owner(journal), await owner(journal)
    await journal.append(dead, [created()])
    await journal.release(dead)
    await journal.release(zombie)
    assert await journal.adopt(zombie, 10) == []


async def test_a_server_that_takes_no_writes_is_away(database: str, journal: PostgresJournal) -> None:
    me = await owner(journal)
    write = created()
    admin = await asyncpg.connect(database)
    try:
        # As on a standby after a failover. New sessions only, so the journal's are closed.
        await admin.execute(
            f'ALTER DATABASE "{await admin.fetchval("SELECT current_database()")}"'
            " SET default_transaction_read_only = on"
        )
        await journal.aclose()
        with pytest.raises(Unavailable):
            await journal.append(me, [write])
    finally:
        await admin.execute(
            f'ALTER DATABASE "{await admin.fetchval("SELECT current_database()")}" RESET default_transaction_read_only'
        )
        await admin.close()
    await journal.aclose()
    await journal.append(me, [write])
    assert await journal.load(write.run_id) is not None
