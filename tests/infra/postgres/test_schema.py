import asyncio
import time
from datetime import date, timedelta
from itertools import count

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from core.clock import uuid7
from infra.postgres.connection import create_engine, transaction
from infra.postgres.migration import downgrade, migrate
from infra.postgres.migrations import HEAD, is_ours
from infra.postgres.partitions import drop_partitions_before, ensure_partitions, first_id, partition_name
from infra.postgres.tables import ATTEMPT_END_TYPES, metadata

DAY = date(2026, 3, 14)
NUMBERS = count(1)


def differences(connection: Connection) -> list[object]:
    options = {"compare_type": True, "compare_server_default": True, "include_name": is_ours}
    context = MigrationContext.configure(connection, opts=options)
    return list(compare_metadata(context, metadata))


async def compared(dsn: str) -> list[object]:
    engine = create_engine(dsn)
    try:
        async with transaction(engine) as connection:
            return await connection.run_sync(differences)
    finally:
        await engine.dispose()


async def test_migrations_build_exactly_the_metadata(database: str) -> None:
    assert await compared(database) == []
    connection = await asyncpg.connect(database)
    await connection.execute("ALTER TABLE runs ADD COLUMN stray int")
    await connection.close()
    assert len(await compared(database)) == 1


async def test_storage_parameters_and_extension(database: str) -> None:
    connection = await asyncpg.connect(database)
    options = await connection.fetchval("SELECT reloptions FROM pg_class WHERE relname = 'runs'")
    assert "fillfactor=80" in options
    assert await connection.fetchval("SELECT '[3,4]'::vector <-> '[0,0]'::vector") == 5
    await connection.close()


async def test_down_to_nothing_and_up_again(database: str) -> None:
    await downgrade(database, "base")
    assert len(await compared(database)) >= len(metadata.tables)
    await migrate(database)
    assert await compared(database) == []


async def test_two_processes_that_start_at_once(empty_database: str) -> None:
    await asyncio.gather(*(migrate(empty_database) for _ in range(4)))
    assert await compared(empty_database) == []


async def test_a_start_with_nothing_to_do_is_quick(database: str) -> None:
    before = time.monotonic()
    await migrate(database)
    assert time.monotonic() - before < 0.5


def test_head_is_the_newest_script() -> None:
    config = Config()
    config.set_main_option("script_location", "infra/postgres/migrations")
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


async def test_audit_log_refuses_change(database: str) -> None:
    connection = await asyncpg.connect(database)
    await connection.execute(
        "INSERT INTO audit_log VALUES (gen_random_uuid(), 'w', now(), 'a', 'secret.put', 't', '{}')"
    )
    for change in ("UPDATE audit_log SET actor = 'b'", "DELETE FROM audit_log", "TRUNCATE audit_log"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
            await connection.execute(change)
    await connection.close()


async def insert_run(connection: asyncpg.Connection, day: date, *, finished: bool, events: int = 2) -> object:
    run_id = uuid7((first_id(day).int >> 80) + 1000, next(NUMBERS))
    await connection.execute(
        "INSERT INTO runs (id, workspace, workflow_id, workflow, workflow_version, status, context, pins, unit_key, "
        "created_by, created_at, finished_at) VALUES ($1, 'w', $1, 'flow', 1, 'x', '{}', '{}', '', '', now(), $2)",
        run_id,
        None if not finished else await connection.fetchval("SELECT now()"),
    )
    for seq in range(1, events + 1):
        await connection.execute(
            "INSERT INTO run_events (run_id, seq, type, item, attempt, at, data) "
            "VALUES ($1, $2, 'attempt_succeeded', -1, 1, now(), $3)",
            run_id,
            seq,
            '{"a": "\\u0000"}',
        )
    return run_id


async def test_events_go_to_the_day_of_their_run(engine: AsyncEngine, database: str) -> None:
    connection = await asyncpg.connect(database)
    stray = await insert_run(connection, DAY, finished=True)
    tx = await connection.fetchval("SELECT tx::text FROM run_events_default LIMIT 1")
    async with transaction(engine) as conn:
        assert await ensure_partitions(conn, DAY, 2) == [DAY + timedelta(days=n) for n in range(3)]
    later = await insert_run(connection, DAY + timedelta(days=1), finished=True)
    where = "SELECT tableoid::regclass::text FROM run_events WHERE run_id = $1 LIMIT 1"
    assert await connection.fetchval(where, stray) == partition_name(DAY)
    assert await connection.fetchval(where, later) == partition_name(DAY + timedelta(days=1))
    assert await connection.fetchval("SELECT tx::text FROM run_events WHERE run_id = $1 LIMIT 1", stray) == tx
    assert await connection.fetchval("SELECT count(*) FROM run_events_default") == 0
    async with transaction(engine) as conn:
        assert await ensure_partitions(conn, DAY, 2) == []
    with pytest.raises(asyncpg.UniqueViolationError):
        await connection.execute("INSERT INTO run_events SELECT * FROM run_events LIMIT 1")
    await connection.close()
    assert await compared(database) == []


async def test_partitions_made_twice_at_once(engine: AsyncEngine) -> None:
    async def once() -> list[date]:
        async with transaction(engine) as conn:
            return await ensure_partitions(conn, DAY, 1)

    made = await asyncio.gather(once(), once(), once())
    assert sorted(len(days) for days in made) == [0, 0, 2]


async def test_retention_keeps_days_with_active_runs(engine: AsyncEngine, database: str) -> None:
    connection = await asyncpg.connect(database)
    async with transaction(engine) as conn:
        await ensure_partitions(conn, DAY, 2)
    await insert_run(connection, DAY, finished=True)
    await insert_run(connection, DAY + timedelta(days=1), finished=True)
    active = await insert_run(connection, DAY + timedelta(days=1), finished=False)
    fresh = await insert_run(connection, DAY + timedelta(days=2), finished=True)
    await insert_run(connection, DAY - timedelta(days=9), finished=True)
    async with transaction(engine) as conn:
        dropped = await drop_partitions_before(conn, DAY + timedelta(days=2))
    assert (dropped.days, dropped.kept, dropped.runs) == ((DAY,), (DAY + timedelta(days=1),), 2)
    left = {row[0] for row in await connection.fetch("SELECT id FROM runs")}
    assert {active, fresh} < left
    assert len(left) == 3
    assert await connection.fetchval("SELECT count(*) FROM run_events") == 6
    await connection.close()


async def test_the_follow_query_reads_its_index(engine: AsyncEngine, database: str) -> None:
    connection = await asyncpg.connect(database)
    async with transaction(engine) as conn:
        await ensure_partitions(conn, DAY, 1)
    low = first_id(DAY).int >> 80
    rows = [
        (uuid7(low + n // 10, n // 10), n % 10, "attempt_succeeded" if n % 4 == 0 else "other") for n in range(20_000)
    ]
    await connection.executemany(
        "INSERT INTO run_events (run_id, seq, type, item, attempt, at, data) VALUES ($1, $2, $3, -1, 1, now(), '{}')",
        rows,
    )
    await connection.execute("ANALYZE run_events")
    plan = await connection.fetch(
        f"EXPLAIN SELECT run_id, seq FROM run_events WHERE {ATTEMPT_END_TYPES} "
        "AND (tx, run_id, seq) > ('3'::xid8, '00000000-0000-0000-0000-000000000000'::uuid, 0) "
        "AND tx < pg_snapshot_xmin(pg_current_snapshot()) ORDER BY tx, run_id, seq LIMIT 500"
    )
    text = "\n".join(row[0] for row in plan)
    assert "Merge Append" in text
    assert "tx_run_id_seq_idx" in text
    assert "Seq Scan" not in text
    assert "Sort  " not in text
    await connection.close()
