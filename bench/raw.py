"""Raw limits of this machine: what the parts can do with nothing around them."""

import asyncio
import os
import tempfile
import time
from pathlib import Path

import asyncpg

SECONDS = 1.5


def fdatasyncs(directory: Path) -> float:
    """Appends of 8 kB made durable, per second."""
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        count, started = 0, time.perf_counter()
        while time.perf_counter() - started < SECONDS:
            file.write(b"x" * 8192)
            file.flush()
            os.fdatasync(file.fileno())
            count += 1
        return count / (time.perf_counter() - started)


async def commits(dsn: str, connections: int) -> float:
    """Single-row transactions per second."""
    pool = [await asyncpg.connect(dsn) for _ in range(connections)]
    await pool[0].execute("CREATE TABLE IF NOT EXISTS raw_commits (id bigint GENERATED ALWAYS AS IDENTITY, v text)")
    until = time.perf_counter() + SECONDS

    async def one(connection: asyncpg.Connection) -> int:
        count = 0
        while time.perf_counter() < until:
            await connection.execute("INSERT INTO raw_commits (v) VALUES ($1)", "x" * 100)
            count += 1
        return count

    started = time.perf_counter()
    counts = await asyncio.gather(*(one(connection) for connection in pool))
    took = time.perf_counter() - started
    for connection in pool:
        await connection.close()
    return sum(counts) / took


async def copied_rows(dsn: str) -> float:
    """Rows per second by COPY in transactions of 500."""
    connection = await asyncpg.connect(dsn)
    await connection.execute("CREATE TABLE IF NOT EXISTS raw_copy (run uuid, seq int, type text, data json)")
    rows = [
        ("01a1fb9f-1667-723b-be80-8a13aff1226a", i, "attempt_succeeded", '{"trace": {"latency_ms": 1}}')
        for i in range(500)
    ]
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        await connection.copy_records_to_table("raw_copy", records=rows)
        count += len(rows)
    took = time.perf_counter() - started
    await connection.close()
    return count / took


async def tasks() -> float:
    """asyncio tasks started and awaited per second."""

    async def nothing() -> None:
        pass

    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        for _ in range(1000):
            await asyncio.create_task(nothing())
        count += 1000
    return count / (time.perf_counter() - started)
