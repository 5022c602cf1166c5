"""Runs a bulk import: rows are checked in one thread while ClickHouse writes the rows before them."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from dataclasses import dataclass
from hashlib import blake2b

from infra.clickhouse.arrow import Table, pa
from infra.clickhouse.imports import Fingerprint, RowFault, TraceImport
from infra.clickhouse.traces import TraceStore

_INSERT_ROWS = 25_000


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What became of the rows.

    Attributes:
        inserted: stored by this import.
        duplicates: good rows that were stored before, or stand twice in the body; left out.
        rejected: bad rows; `faults` tells about the first 100.
    """

    inserted: int
    duplicates: int
    rejected: int
    faults: tuple[RowFault, ...]


async def import_traces(
    store: TraceStore, body: AsyncIterable[bytes], workspace: str, fingerprint: Fingerprint
) -> ImportReport:
    """Store the good rows of an import body (JSON or NDJSON, see `imports`).

    Can be repeated at will: rows that are stored are recognized by their content, whatever file they come in. When it
    fails midway the rows before are stored, and the same body sent again completes it.

    Raises:
        Invalid: too large, or not an import at all.
        Unavailable: ClickHouse does not answer.
    """
    reading = TraceImport(workspace, fingerprint)
    ready: list[Table] = []
    inserted = 0
    writing: asyncio.Task[int] | None = None
    try:
        async for tables in _checked(reading, body):
            ready += tables
            if sum(table.num_rows for table in ready) >= _INSERT_ROWS:
                if writing is not None:
                    inserted += await writing
                writing = asyncio.create_task(_insert(store, ready))
                ready = []
        if writing is not None:
            inserted += await writing
            writing = None
    finally:
        if writing is not None:
            # The thread cannot be stopped; to leave its error unread would be a warning at some later time.
            await asyncio.gather(writing, return_exceptions=True)
    if ready:
        inserted += await _insert(store, ready)
    duplicates = reading.accepted - inserted + reading.repeated
    return ImportReport(inserted, duplicates, reading.rejected, tuple(reading.faults))


async def _checked(reading: TraceImport, body: AsyncIterable[bytes]) -> AsyncIterator[list[Table]]:
    async for data in body:
        tables = await asyncio.to_thread(list, reading.feed(data))
        if tables:
            yield tables
    rest: Iterator[Table] = reading.finish()
    yield await asyncio.to_thread(list, rest)


async def _insert(store: TraceStore, tables: list[Table]) -> int:
    table = pa.concat_tables(tables).combine_chunks()
    ids = table["attempt_id"].chunk(0).buffers()[1]
    return await store.insert_new(table, f"import-{blake2b(ids, digest_size=16).hexdigest()}")
