"""Traces in ClickHouse: delivered exactly once in effect, listed newest first."""

# SQL is put together from constants of this module alone; every value is a bound parameter.
# ruff: noqa: S608

import asyncio
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from clickhouse_connect.driver.client import Client

from core.trace import TraceRow, TraceStatus
from infra.clickhouse.arrow import Table, pa, pc
from infra.clickhouse.client import ClickHouse
from infra.clickhouse.columns import SCHEMA, table_of
from infra.clickhouse.cursor import Position, decode_cursor, encode_cursor
from infra.clickhouse.schema import apply_schema

T = TypeVar("T")

_IDS_PER_QUERY = 1000
_RANGE_ROWS = 2_000_000
"""Up to so many stored ids are fetched to compare; beyond that the ids in question are sent instead."""

# Rows of many years in one insert are legal, if slow; the default of 100 would refuse nine years of months.
_MAX_PARTITIONS = 2000

_SELECT = ", ".join(SCHEMA.names)

_CONDITIONS = {
    "run_id": "run_id = {run_id:String}",
    "node": "node = {node:String}",
    "node_version": "node_version = {node_version:String}",
    "workflow": "workflow = {workflow:String}",
    "step_id": "step_id = {step_id:String}",
    "status": "status = {status:String}",
    "error_class": "error_class = {error_class:String}",
    "fingerprint": "error_fingerprint = {fingerprint:String}",
    "arm": "arm = {arm:String}",
    "start": "start >= {start:DateTime64(6, 'UTC')}",
    "end": "start < {end:DateTime64(6, 'UTC')}",
}


@dataclass(frozen=True, slots=True)
class TraceFilter:
    """Which traces; what is None does not matter. `start` (inclusive) and `end` (exclusive) bound when it began."""

    workspace: str
    run_id: str | None = None
    node: str | None = None
    node_version: str | None = None
    workflow: str | None = None
    step_id: str | None = None
    status: TraceStatus | None = None
    error_class: str | None = None
    fingerprint: str | None = None
    arm: str | None = None
    start: datetime | None = None
    end: datetime | None = None


@dataclass(frozen=True, slots=True)
class TracePage:
    """Traces newest first; `next_cursor` is None on the last page."""

    items: tuple[TraceRow, ...]
    next_cursor: str | None


class TraceStore:
    """Reads and writes traces. The schema is applied at the first call that reaches ClickHouse, so a process can start
    while it is away.

    Raises (every call):
        Unavailable: ClickHouse does not answer; a write may or may not have happened.
    """

    def __init__(self, clickhouse: ClickHouse, retention_days: int | None = None) -> None:
        self._clickhouse = clickhouse
        self._retention_days = retention_days
        self._prepared = False
        self._preparing = asyncio.Lock()

    async def prepare(self) -> None:
        """Bring the schema up to date, once; every other call does it by itself.

        Raises:
            Conflict: the database belongs to a newer program.
        """
        async with self._preparing:
            if not self._prepared:
                await self._clickhouse.write(lambda client: apply_schema(client, self._retention_days))
                self._prepared = True

    async def aclose(self) -> None:
        """Close ClickHouse, see `ClickHouse.aclose`."""
        await self._clickhouse.aclose()

    async def read(self, job: Callable[[Client], T]) -> T:
        """Run a reading job of this package once the schema is there."""
        if not self._prepared:
            await self.prepare()
        return await self._clickhouse.read(job)

    async def insert(self, rows: Sequence[TraceRow], token: str) -> None:
        """Store a batch, exactly once in effect: repeating the same rows with the same token changes nothing, also when
        the first attempt's outcome is unknown or it reached only some of the monthly partitions.

        ClickHouse remembers the last 10,000 parts (an insert makes one for each month); a batch repeated after more
        than that is stored again. The rows must be the same for a token: other rows under a used token are lost.

        Args:
            rows: at most a million, so that ClickHouse takes them as one block.
            token: names the batch for ever, for example the span of the journal that it covers.
        """
        if not rows:
            return
        if not self._prepared:
            await self.prepare()

        # The Arrow table is built in the write thread too: 20 µs for a row would hold the loop for too long.
        await self._clickhouse.write(lambda client: _insert(client, table_of(rows), token))

    async def insert_missing(self, rows: Sequence[TraceRow], token: str) -> int:
        """Store those rows whose attempts are not stored yet; returns how many that were.

        For a batch whose fate is not known after a crash: ClickHouse notes a batch's token before its rows are there,
        so a kill in between leaves a token that stands for nothing.
        """
        by_workspace: dict[str, list[TraceRow]] = {}
        for row in rows:
            by_workspace.setdefault(row.workspace, []).append(row)
        added = 0
        for workspace, own in by_workspace.items():
            added += await self.insert_new(table_of(own), f"{token}-missing-{workspace}")
        return added

    async def insert_new(self, table: Table, token: str) -> int:
        """Store the rows of an Arrow table (`columns.SCHEMA`, one workspace) whose attempts are not stored yet.

        The look-up and the write are one job of the write thread, so two imports in one process cannot both find an
        attempt missing. Two processes that import the same rows at the same moment are kept apart by the token alone.

        Returns:
            how many rows were new.
        """
        if not self._prepared:
            await self.prepare()

        def job(client: Client) -> int:
            new = _without_known(client, table)
            if new.num_rows:
                # Rows that were left out make another block, which needs another name.
                _insert(client, new, token if new.num_rows == table.num_rows else f"{token}-{new.num_rows}")
            return int(new.num_rows)

        return await self._clickhouse.write(job)

    async def query(self, wanted: TraceFilter, limit: int = 20, cursor: str | None = None) -> TracePage:
        """A page of traces, newest first (equal starts by attempt id).

        Pages do not shift: rows that arrive meanwhile are before or after the cursor by their own start.

        Raises:
            Invalid: the cursor is not one of ours.
        """
        where, parameters = _where(wanted)
        if cursor is not None:
            position = decode_cursor(cursor)
            # The first half alone lets ClickHouse skip by the key; it cannot see that through the OR.
            where += (
                " AND start <= {c_start:DateTime64(6, 'UTC')}"
                " AND (start < {c_start:DateTime64(6, 'UTC')} OR attempt_id < {c_id:UUID})"
            )
            parameters |= {"c_start": position.start, "c_id": position.attempt_id}
        sql = f"SELECT {_SELECT} FROM traces WHERE {where} ORDER BY start DESC, attempt_id DESC LIMIT {{limit:UInt32}}"
        parameters["limit"] = limit + 1
        rows = await self.read(lambda client: client.query(sql, parameters=parameters).result_rows)
        items = tuple(_row(values) for values in rows[:limit])
        more = len(rows) > limit
        return TracePage(items, encode_cursor(Position(items[-1].start, items[-1].attempt_id)) if more else None)

    async def count(self, wanted: TraceFilter) -> int:
        """How many traces the filter lets through."""
        where, parameters = _where(wanted)
        sql = f"SELECT count() FROM traces WHERE {where}"
        return int((await self.read(lambda client: client.query(sql, parameters=parameters).result_rows))[0][0])

    async def known_attempts(self, workspace: str, attempt_ids: Collection[uuid.UUID]) -> set[uuid.UUID]:
        """Those of the attempts that are stored."""
        ids = list(attempt_ids)
        if not ids:
            return set()
        return await self.read(lambda client: _known(client, workspace, ids))


def _where(wanted: TraceFilter) -> tuple[str, dict[str, Any]]:
    parameters: dict[str, Any] = {"workspace": wanted.workspace}
    conditions = ["workspace = {workspace:String}"]
    for name, condition in _CONDITIONS.items():
        value = getattr(wanted, name)
        if value is not None:
            parameters[name] = value.value if isinstance(value, TraceStatus) else value
            conditions.append(condition)
    return " AND ".join(conditions), parameters


def _row(values: Sequence[Any]) -> TraceRow:
    fields = dict(zip(SCHEMA.names, values, strict=True))
    fields["status"] = TraceStatus(fields["status"])
    return TraceRow(**fields)


def _insert(client: Client, table: Table, token: str) -> None:
    client.insert_arrow(
        "traces",
        table,
        settings={
            "insert_deduplication_token": token,
            "insert_deduplicate": 1,
            # A block that is split into parts by chance of timing would be named differently by its repetition.
            "async_insert": 0,
            "max_insert_threads": 1,
            "max_partitions_per_insert_block": _MAX_PARTITIONS,
        },
    )


def _known(client: Client, workspace: str, ids: Sequence[uuid.UUID]) -> set[uuid.UUID]:
    found: set[uuid.UUID] = set()
    for first in range(0, len(ids), _IDS_PER_QUERY):
        rows = client.query(
            "SELECT attempt_id FROM traces WHERE workspace = {workspace:String} AND attempt_id IN {ids:Array(UUID)}",
            parameters={"workspace": workspace, "ids": list(ids[first : first + _IDS_PER_QUERY])},
        ).result_rows
        found.update(row[0] for row in rows)
    return found


def _without_known(client: Client, table: Table) -> Table:
    """The rows of the table whose attempts are not stored. Most imports are all new: then one cheap count tells."""
    span = pc.min_max(table["start"]).as_py()
    parameters = {"workspace": table["workspace"][0].as_py(), "first": span["min"], "last": span["max"]}
    where = (
        "workspace = {workspace:String} AND start BETWEEN {first:DateTime64(6, 'UTC')} AND {last:DateTime64(6, 'UTC')}"
    )
    stored = client.query(f"SELECT count() FROM traces WHERE {where}", parameters=parameters).result_rows[0][0]
    if not stored:
        return table
    ids = table["attempt_id"].combine_chunks()
    if stored <= _RANGE_ROWS:
        rows = client.query_arrow(f"SELECT attempt_id FROM traces WHERE {where}", parameters=parameters)
        known = rows["attempt_id"].cast(ids.type)
    else:
        texts = [uuid.UUID(bytes=one) for one in ids.to_pylist()]
        found = _known(client, parameters["workspace"], texts)
        known = pa.array([one.bytes for one in found], ids.type)
    return table.filter(pc.invert(pc.is_in(ids, value_set=known)))
