"""The shipper between a real journal and a store that remembers every batch, as ClickHouse does."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from core.clock import uuid7
from core.errors import Unavailable
from core.trace import TraceRow
from infra import shipper as shipping
from infra.clock import SystemClock
from infra.shipper import TraceShipper

TRACE = {"node": "n", "node_version": "1.0.0", "status": "ok", "start": "2026-03-14T09:00:00+00:00", "latency_ms": 1.5}


class Sink:
    """Exactly once for each token, like the real one. It can be away, and it can lose its answer."""

    def __init__(self) -> None:
        self.rows: list[TraceRow] = []
        self.batches: dict[str, list[TraceRow]] = {}
        self.repeated = 0
        self.away = False
        self.lose_answers = 0
        self.stall: asyncio.Event | None = None

    async def insert(self, rows: Sequence[TraceRow], token: str) -> None:
        if self.away:
            raise Unavailable("away")
        if token in self.batches:
            self.repeated += 1
            assert self.batches[token] == list(rows), "one token names two different batches"
        else:
            self.batches[token] = list(rows)
            self.rows += rows
        if self.lose_answers:
            self.lose_answers -= 1
            raise Unavailable("the answer was lost")
        if self.stall is not None:
            await self.stall.wait()

    async def insert_missing(self, rows: Sequence[TraceRow], token: str) -> int:
        known = {row.attempt_id for row in self.rows}
        missing = [row for row in rows if row.attempt_id not in known]
        self.rows += missing
        return len(missing)

    def keys(self) -> list[tuple[str, int]]:
        return [(row.run_id, row.attempt) for row in self.rows]


class Journal:
    """Writes runs and ends of attempts as the engine does, one transaction at a time."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.written: list[tuple[str, int]] = []
        self._count = 0

    async def attempts(self, number: int, connection: Any = None) -> None:
        connection = connection or self.connection
        self._count += 1
        run_id = uuid7(int(SystemClock().now().timestamp() * 1000), self._count)
        await connection.execute(
            "INSERT INTO runs (id, workspace, workflow_id, workflow, workflow_version, status, owner_id, context, pins,"
            " unit_key, created_by, created_at)"
            " VALUES ($1, 'default', $1, 'flow', 1, 'completed', $1, '{}', '{}', '', '', now())",
            run_id,
        )
        data = json.dumps({"trace": TRACE})
        await connection.executemany(
            "INSERT INTO run_events (run_id, seq, type, step_id, item, attempt, at, data)"
            " VALUES ($1, $2, $3, 's', -1, $4, now(), $5)",
            [(run_id, 2 * n, "attempt_started", n, "{}") for n in range(1, number + 1)]
            + [(run_id, 2 * n + 1, "attempt_succeeded", n, data) for n in range(1, number + 1)],
        )
        self.written += [(str(run_id), n) for n in range(1, number + 1)]


@pytest.fixture
async def journal(database: str) -> AsyncIterator[Journal]:
    connection = await asyncpg.connect(database)
    yield Journal(connection)
    await connection.close()


@asynccontextmanager
async def running(database: str, sink: Sink) -> AsyncIterator[TraceShipper]:
    shipper = TraceShipper(database, sink)
    shipper.start()
    yield shipper
    await shipper.aclose(0.2)


async def crash(shipper: TraceShipper) -> None:
    """End it as a kill would: in the middle of whatever it does."""
    assert shipper._task is not None
    shipper._task.cancel()
    await asyncio.wait((shipper._task,))


async def until(condition: Any, seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def test_every_end_of_an_attempt_arrives_once_and_in_order(database: str, journal: Journal) -> None:
    sink = Sink()
    async with running(database, sink) as shipper:
        for _ in range(5):
            await journal.attempts(7)
            shipper.wake()
        assert await shipper.caught_up(5)
        assert sink.keys() == journal.written
        assert shipper.shipped == 35
        await journal.attempts(1)
        assert await shipper.caught_up(5)
    assert sink.keys() == journal.written
    assert sink.repeated == 0


async def test_a_long_journal_goes_in_batches(database: str, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipping, "BATCH_ROWS", 10)
    for _ in range(4):
        await journal.attempts(9)  # a batch ends in the middle of a transaction
    sink = Sink()
    async with running(database, sink) as shipper:
        assert await shipper.caught_up(5)
    assert sink.keys() == journal.written
    assert max(len(batch) for batch in sink.batches.values()) == 10


async def test_a_crash_between_insert_and_cursor_sends_the_same_batch_again(database: str, journal: Journal) -> None:
    sink = Sink()
    sink.stall = asyncio.Event()
    await journal.attempts(5)
    dying = TraceShipper(database, sink)
    dying.start()
    await until(lambda: sink.rows)
    await crash(dying)
    sink.stall = None
    await journal.attempts(5)  # what came after the crash must not slip into the batch that is repeated
    async with running(database, sink) as shipper:
        assert await shipper.caught_up(5)
    assert sink.keys() == journal.written
    assert sink.repeated == 1


async def test_a_lost_answer_makes_nothing_double(database: str, journal: Journal) -> None:
    sink = Sink()
    sink.lose_answers = 2
    await journal.attempts(5)
    async with running(database, sink) as shipper:
        await until(lambda: shipper.failing)
        await journal.attempts(5)
        assert await shipper.caught_up(10)
        assert not shipper.failing
    assert sink.keys() == journal.written
    assert sink.repeated == 2


async def test_rows_wait_in_the_journal_while_the_store_is_away(database: str, journal: Journal) -> None:
    sink = Sink()
    sink.away = True
    async with running(database, sink) as shipper:
        for _ in range(3):
            await journal.attempts(4)
            shipper.wake()
        assert not await shipper.caught_up(0.5)
        assert shipper.failing
        assert sink.rows == []
        sink.away = False
        assert await shipper.caught_up(10)
    assert sink.keys() == journal.written


async def test_an_older_open_transaction_holds_back_what_is_newer(database: str, journal: Journal) -> None:
    sink = Sink()
    older = await asyncpg.connect(database)
    transaction = older.transaction()
    await transaction.start()
    await journal.attempts(2, older)
    late, journal.written = journal.written, []
    await journal.attempts(3)
    async with running(database, sink) as shipper:
        # What is committed may not be overtaken by the cursor while something before it can still appear.
        await shipper.caught_up(0.5)
        assert sink.rows == []
        await transaction.commit()
        await older.close()
        await until(lambda: len(sink.rows) == 5)
    assert sink.keys() == [*late, *journal.written]


async def test_concurrent_writers_lose_and_double_nothing(database: str) -> None:
    sink = Sink()
    written: list[tuple[str, int]] = []

    async def write(worker: int) -> None:
        connection = await asyncpg.connect(database)
        own = Journal(connection)
        own._count = worker * 1_000_000
        for _ in range(20):
            async with connection.transaction():
                await own.attempts(3)
                await asyncio.sleep(0.002 * worker)
        written.extend(own.written)
        await connection.close()

    async with running(database, sink) as shipper:
        waking = asyncio.create_task(_keep_waking(shipper))
        await asyncio.gather(*(write(worker) for worker in range(6)))
        waking.cancel()
        await until(lambda: len(sink.rows) == 360)
    assert Counter(sink.keys()) == Counter(written)


async def _keep_waking(shipper: TraceShipper) -> None:
    while True:
        await shipper.caught_up(0.05)


async def test_of_two_shippers_one_ships_and_the_other_takes_over(database: str, journal: Journal) -> None:
    first, second = Sink(), Sink()
    leader = TraceShipper(database, first)
    leader.start()
    await journal.attempts(2)
    assert await leader.caught_up(5)
    async with running(database, second) as standby:
        await journal.attempts(2)
        assert await leader.caught_up(5)
        assert not await standby.caught_up(0.3)
        assert second.rows == []
        await crash(leader)
        await journal.attempts(2)
        assert await standby.caught_up(5)
    assert first.keys() + second.keys() == journal.written


async def test_a_lost_database_connection_is_made_again(database: str, journal: Journal) -> None:
    sink = Sink()
    async with running(database, sink) as shipper:
        await journal.attempts(2)
        assert await shipper.caught_up(5)
        await journal.connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await journal.attempts(2)
        assert await shipper.caught_up(10)
    assert sink.keys() == journal.written


async def test_caught_up_waits_for_what_is_in_the_journal_now(database: str, journal: Journal) -> None:
    sink = Sink()
    async with running(database, sink) as shipper:
        assert await shipper.caught_up(5)
        for number in range(1, 20):
            await journal.attempts(1)
            assert await shipper.caught_up(5)
            assert len(sink.rows) == number


async def test_a_token_that_stands_for_nothing_loses_no_row(database: str, journal: Journal) -> None:
    class Forgetful(Sink):
        """Notes the first batch's token and dies before its rows are there."""

        async def insert(self, rows: Sequence[TraceRow], token: str) -> None:
            if not self.batches:
                self.batches[token] = list(rows)
                raise Unavailable("killed")
            await super().insert(rows, token)

    await journal.attempts(3)
    sink = Forgetful()
    async with running(database, sink) as shipper:
        assert await shipper.caught_up(10)
    assert sink.keys() == journal.written


async def test_a_journal_restored_into_another_cluster_goes_on_where_it_was(database: str, journal: Journal) -> None:
    sink = Sink()
    await journal.attempts(3)
    async with running(database, sink) as shipper:
        assert await shipper.caught_up(5)
    await journal.attempts(2)  # written, not shipped, when the backup is made
    for table in ("run_events", "shipper_cursor"):  # as numbered by a cluster that was far ahead
        await journal.connection.execute(f"UPDATE {table} SET tx = (tx::text::bigint + 1000000)::text::xid8")
    async with running(database, sink) as shipper:
        assert await shipper.caught_up(5)
        await journal.attempts(4)
        shipper.wake()
        assert await shipper.caught_up(5)
    assert sink.keys() == journal.written


async def test_a_row_that_can_never_be_stored_does_not_hold_up_the_others(database: str, journal: Journal) -> None:
    class Particular(Sink):
        async def insert(self, rows: Sequence[TraceRow], token: str) -> None:
            if any(row.attempt == 5 for row in rows):
                raise OverflowError("too large")
            await super().insert(rows, token)

        async def insert_missing(self, rows: Sequence[TraceRow], token: str) -> int:
            if any(row.attempt == 5 for row in rows):
                raise OverflowError("too large")
            return await super().insert_missing(rows, token)

    await journal.attempts(9)
    sink = Particular()
    async with running(database, sink) as shipper:
        assert await shipper.caught_up(5)
    assert sink.keys() == [one for one in journal.written if one[1] != 5]
