"""The journal's daily partitions: made ahead, dropped by retention.

Run ids are UUIDv7, so the ids made on one day are one range; a run's events all lie in the partition of the day on
which the run was created. What has no partition yet lands in the default one and is moved when its day is made.
"""

import re
import uuid
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

import asyncpg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from core.clock import uuid7

_NAME = re.compile(r"^run_events_(\d{8})$")
_LOCK = 0x5EF1_0DA7
# A journal that waits for our lock waits behind whatever we wait for: better to give up and come back.
_LOCK_WAIT = "2s"


@dataclass(frozen=True, slots=True)
class Dropped:
    """What retention removed, and the days that it could not remove yet."""

    days: tuple[date, ...]
    kept: tuple[date, ...]
    runs: int


def partition_name(day: date) -> str:
    """The table that holds the events of runs created on that day (UTC)."""
    return f"run_events_{day:%Y%m%d}"


def first_id(day: date) -> uuid.UUID:
    """The lowest UUIDv7 of a day (UTC): the bound between partitions."""
    return uuid7(int(datetime.combine(day, time(), UTC).timestamp() * 1000), 0)


async def ensure_partitions(conn: AsyncConnection, today: date, days_ahead: int) -> list[date]:
    """Make the partitions of today and of the days that follow; return those that were missing.

    Call it inside a transaction. Rows that wait in the default partition are moved along. Safe to run twice at once.
    """
    await conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    existing = set(await _days(conn))
    wanted = [today + timedelta(days=ahead) for ahead in range(days_ahead + 1)]
    missing = [day for day in wanted if day not in existing]
    if missing:
        await conn.execute(text("LOCK TABLE run_events_default IN ACCESS EXCLUSIVE MODE"))
    for day in missing:
        await _make(conn, day)
    return missing


async def drop_partitions_before(conn: AsyncConnection, day: date) -> Dropped:
    """Forget the runs created before `day`, with their events. A day with a run that is still active stays whole.

    Call it inside a transaction. A partition that stays busy is left for the next time.
    """
    await conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    await conn.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_WAIT}'"))
    dropped: list[date] = []
    kept: list[date] = []
    runs = 0
    for old in [one for one in await _days(conn) if one < day]:
        gone = await _drop(conn, old)
        if gone is None:
            kept.append(old)
        else:
            dropped.append(old)
            runs += gone
    runs += await _drop_strays(conn, day, kept)
    return Dropped(tuple(dropped), tuple(kept), runs)


async def _days(conn: AsyncConnection) -> list[date]:
    rows = await conn.execute(
        text(
            "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
            "WHERE i.inhparent = 'run_events'::regclass ORDER BY c.relname"
        )
    )
    found = (_NAME.match(name) for (name,) in rows)
    return [date(int(m[1][:4]), int(m[1][4:6]), int(m[1][6:])) for m in found if m]


async def _make(conn: AsyncConnection, day: date) -> None:
    # Names and bounds come from a date alone, so the text holds nothing from outside; DDL takes no parameters.
    name, low, high = partition_name(day), first_id(day), first_id(day + timedelta(days=1))
    await conn.execute(
        text(
            f"CREATE TABLE {name} (LIKE run_events INCLUDING DEFAULTS) "
            "WITH (autovacuum_vacuum_insert_scale_factor = 0.5, autovacuum_analyze_scale_factor = 0.2)"
        )
    )
    await conn.execute(
        text(
            "WITH moved AS (DELETE FROM run_events_default WHERE run_id >= :low "  # noqa: S608
            f"AND run_id < :high RETURNING *) INSERT INTO {name} SELECT * FROM moved"
        ),
        {"low": low, "high": high},
    )
    await conn.execute(text(f"ALTER TABLE run_events ATTACH PARTITION {name} FOR VALUES FROM ('{low}') TO ('{high}')"))


_RANGE = "id >= :low AND id < :high"


async def _drop(conn: AsyncConnection, day: date) -> int | None:
    """Runs that went with the day, or None when it has to stay."""
    bounds = {"low": first_id(day), "high": first_id(day + timedelta(days=1))}
    active = text(f"SELECT EXISTS (SELECT FROM runs WHERE {_RANGE} AND finished_at IS NULL)")  # noqa: S608
    if await conn.scalar(active, bounds):
        return None
    try:
        async with conn.begin_nested():
            await conn.execute(text(f"DROP TABLE {partition_name(day)}"))
            gone = await conn.execute(text(f"DELETE FROM runs WHERE {_RANGE}"), bounds)  # noqa: S608
            return gone.rowcount
    except DBAPIError as error:
        if error.orig is not None and isinstance(error.orig.__cause__, asyncpg.LockNotAvailableError):
            return None
        raise


async def _drop_strays(conn: AsyncConnection, day: date, kept: list[date]) -> int:
    """Drop finished runs before `day` that never had a partition of their own; return how many."""
    bounds = {
        "before": first_id(day),
        "lows": [first_id(one) for one in kept],
        "highs": [first_id(one + timedelta(days=1)) for one in kept],
    }
    gone = await conn.execute(
        text(
            "DELETE FROM runs WHERE id < :before AND finished_at IS NOT NULL AND NOT EXISTS ("
            "SELECT FROM unnest(CAST(:lows AS uuid[]), CAST(:highs AS uuid[])) AS kept(low, high) "
            "WHERE runs.id >= low AND runs.id < high)"
        ),
        bounds,
    )
    await conn.execute(
        text(
            "DELETE FROM run_events_default e WHERE run_id < :before "
            "AND NOT EXISTS (SELECT FROM runs WHERE runs.id = e.run_id)"
        ),
        {"before": first_id(day)},
    )
    return gone.rowcount
