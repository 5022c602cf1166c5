"""The run journal on PostgreSQL: the hot path, so it speaks to asyncpg directly.

An append is one statement. Its first part locks the owner's row if the owner is not fenced, and everything else
hangs on that row: a fenced owner changes nothing. Fencing takes the same row's lock, so it waits for an append
under way, and what that append wrote is there when the new owner reads.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol
from uuid import UUID

import asyncpg
import orjson

from core.errors import Unavailable
from core.ids import OwnerId, RunId, WorkflowId, Workspace
from core.journal import Fenced, RunWrite, StoredRun
from core.run import EventType, RunEvent, RunRecord

PAYLOAD_INLINE_BYTES = 32 * 1024
"""Larger payloads go to the object store; the row holds a reference."""

_APPEND = """
WITH alive AS MATERIALIZED (
    SELECT id FROM owners WHERE id = $1 AND NOT fenced FOR SHARE
), new_runs AS (
    INSERT INTO runs (id, workspace, workflow_id, workflow, workflow_version, status, owner_id, input, input_ref,
                      context, pins, unit_key, created_by, created_at, finished_at, error, parent_id)
    SELECT r.id, r.workspace, r.workflow_id, r.workflow, r.workflow_version, r.status, alive.id, r.input, r.input_ref,
           r.context, r.pins, r.unit_key, r.created_by, r.created_at, r.finished_at, r.error, r.parent_id
    FROM alive, unnest($2::uuid[], $3::text[], $4::uuid[], $5::text[], $6::int[], $7::text[], $8::json[], $9::text[],
                       $10::json[], $11::json[], $12::text[], $13::text[], $14::timestamptz[], $15::timestamptz[],
                       $16::json[], $31::uuid[])
         AS r(id, workspace, workflow_id, workflow, workflow_version, status, input, input_ref,
              context, pins, unit_key, created_by, created_at, finished_at, error, parent_id)
    ON CONFLICT (id) DO NOTHING
    RETURNING id
), moved_runs AS (
    UPDATE runs SET status = m.status, finished_at = m.finished_at, error = m.error
    FROM alive, unnest($17::uuid[], $18::text[], $19::timestamptz[], $20::json[]) AS m(id, status, finished_at, error)
    WHERE runs.id = m.id AND runs.owner_id = alive.id
), new_events AS (
    INSERT INTO run_events (run_id, seq, type, step_id, item, attempt, at, data, payload, payload_ref)
    SELECT e.run_id, e.seq, e.type, e.step_id, e.item, e.attempt, e.at, e.data, e.payload, e.payload_ref
    FROM alive, unnest($21::uuid[], $22::int[], $23::text[], $24::text[], $25::int[], $26::int[],
                       $27::timestamptz[], $28::json[], $29::json[], $30::text[])
         AS e(run_id, seq, type, step_id, item, attempt, at, data, payload, payload_ref)
    WHERE e.run_id <> ALL ($2) OR e.run_id IN (SELECT id FROM new_runs)
       OR EXISTS (SELECT 1 FROM runs WHERE runs.id = e.run_id AND runs.owner_id = $1)
    ON CONFLICT (run_id, seq) DO NOTHING
)
SELECT (SELECT count(*) FROM alive) AS alive,
       CASE WHEN cardinality($2::uuid[]) > 0 THEN (SELECT count(*) FROM new_runs) END AS created
"""

_TAKEN = "SELECT id FROM runs WHERE id = ANY($2::uuid[]) AND owner_id IS DISTINCT FROM $1"
"""Runs that were created under the same id by somebody else, at the same time or before."""

_FENCE_EXPIRED = "UPDATE owners SET fenced = true WHERE NOT fenced AND expires_at < now() AND id <> $1"

_ADOPT = """
UPDATE runs SET owner_id = $1, recoveries = recoveries + 1
WHERE id IN (
    SELECT runs.id FROM runs JOIN owners ON owners.id = runs.owner_id
    WHERE runs.finished_at IS NULL AND owners.fenced
    LIMIT $2 FOR UPDATE OF runs SKIP LOCKED
) AND EXISTS (SELECT 1 FROM owners WHERE id = $1 AND NOT fenced)
RETURNING id
"""

_REOPEN = """
UPDATE runs SET owner_id = $1, finished_at = NULL, status = 'running'
WHERE id = $2 AND finished_at IS NOT NULL AND EXISTS (SELECT 1 FROM owners WHERE id = $1 AND NOT fenced)
RETURNING true
"""

_ENDED = "SELECT id, finished_at IS NOT NULL AS over FROM runs WHERE id = ANY($1::uuid[])"

_RUN = """
SELECT runs.*, workflow_versions.spec
FROM runs LEFT JOIN workflow_versions
  ON workflow_versions.workflow_id = runs.workflow_id AND workflow_versions.version = runs.workflow_version
WHERE runs.id = $1
"""

_EVENTS = "SELECT * FROM run_events WHERE run_id = $1 AND seq > $2 ORDER BY seq LIMIT $3"


class Objects(Protocol):
    """Where large payloads are kept, by content."""

    async def put(self, data: bytes) -> str:
        """Store bytes; returns the reference."""
        ...

    async def get(self, ref: str) -> bytes:
        """The bytes behind a reference."""
        ...


class PostgresJournal:
    """See `engine.ports.Journal`. Also the read side of events."""

    def __init__(self, dsn: str, objects: Objects) -> None:
        self._dsn = dsn
        self._objects = objects
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._opening = asyncio.Lock()

    async def ping(self) -> None:
        """Raises Unavailable when the database does not answer."""
        async with self._connection() as connection:
            await connection.fetchval("SELECT 1")

    async def aclose(self) -> None:
        """Close the connections."""
        if self._pool is not None:
            pool, self._pool = self._pool, None
            await pool.close()

    async def register(self, owner: OwnerId, lease_seconds: float, exclusive: bool) -> None:
        """See `engine.ports.Journal.register`."""
        async with self._connection() as connection, connection.transaction():
            if exclusive:
                await connection.execute("UPDATE owners SET fenced = true WHERE NOT fenced")
            await connection.execute(
                "INSERT INTO owners (id, started_at, expires_at, fenced, hostname, pid)"
                " VALUES ($1, now(), now() + make_interval(secs => $2), false, $3, $4) ON CONFLICT (id) DO NOTHING",
                owner,
                lease_seconds,
                socket.gethostname(),
                os.getpid(),
            )

    async def renew(self, owner: OwnerId, lease_seconds: float) -> bool:
        """See `engine.ports.Journal.renew`."""
        async with self._connection() as connection:
            tag = await connection.execute(
                "UPDATE owners SET expires_at = now() + make_interval(secs => $2) WHERE id = $1 AND NOT fenced",
                owner,
                lease_seconds,
            )
        return bool(tag == "UPDATE 1")

    async def release(self, owner: OwnerId) -> None:
        """See `engine.ports.Journal.release`."""
        async with self._connection() as connection:
            await connection.execute("UPDATE owners SET fenced = true, expires_at = now() WHERE id = $1", owner)

    async def append(self, owner: OwnerId, writes: Sequence[RunWrite]) -> frozenset[RunId]:
        """See `engine.ports.Journal.append`."""
        arguments = await self._arguments(writes)
        wanted = arguments[0]
        async with self._connection() as connection:
            row = await connection.fetchrow(_APPEND, owner, *arguments)
            if not row["alive"]:
                raise Fenced("another engine has taken over this engine's runs")
            if not wanted or row["created"] == len(wanted):
                return frozenset()
            # Seldom: this engine writes it for the second time, or two processes were told to start the same run.
            taken = await connection.fetch(_TAKEN, owner, wanted)
        return frozenset(RunId(one["id"]) for one in taken)

    async def adopt(self, owner: OwnerId, limit: int) -> list[RunId]:
        """See `engine.ports.Journal.adopt`."""
        async with self._connection() as connection:
            await connection.execute(_FENCE_EXPIRED, owner)
            rows = await connection.fetch(_ADOPT, owner, limit)
        return [RunId(_plain(row["id"])) for row in rows]

    async def load(self, run_id: RunId) -> StoredRun | None:
        """See `engine.ports.Journal.load`."""
        async with self._connection() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
            row = await connection.fetchrow(_RUN, run_id)
            if row is None:
                return None
            events = await connection.fetch(_EVENTS, run_id, 0, 2**31 - 1)
        record = RunRecord(
            id=RunId(_plain(row["id"])),
            workspace=Workspace(row["workspace"]),
            workflow_id=WorkflowId(_plain(row["workflow_id"])),
            workflow=row["workflow"],
            workflow_version=row["workflow_version"],
            created_at=row["created_at"],
            input=await self._value(row["input"], row["input_ref"]),
            context=orjson.loads(row["context"]),
            pins=orjson.loads(row["pins"]),
            unit_key=row["unit_key"],
            created_by=row["created_by"],
            parent_id=row["parent_id"],
        )
        spec = orjson.loads(row["spec"]) if row["spec"] is not None else None
        return StoredRun(record, spec, [await self._event(event) for event in events], row["recoveries"])

    async def reopen(self, owner: OwnerId, run_id: RunId) -> bool:
        """See `engine.ports.Journal.reopen`."""
        async with self._connection() as connection:
            return bool(await connection.fetchval(_REOPEN, owner, run_id))

    async def ended(self, run_ids: Sequence[RunId]) -> dict[RunId, bool]:
        """See `engine.ports.Journal.ended`."""
        async with self._connection() as connection:
            rows = await connection.fetch(_ENDED, list(run_ids))
        return {RunId(_plain(row["id"])): row["over"] for row in rows}

    async def events(self, run_id: UUID, after: int, limit: int) -> list[RunEvent]:
        """Events of a run with a `seq` above `after`, in order."""
        async with self._connection() as connection:
            rows = await connection.fetch(_EVENTS, run_id, after, limit)
        return [await self._event(row) for row in rows]

    async def _arguments(self, writes: Sequence[RunWrite]) -> list[Any]:
        """The statement's parameters: one list for each column. A run written twice is moved to its last status."""
        created: dict[UUID, RunWrite] = {}
        last: dict[UUID, RunWrite] = {}
        event_rows: list[tuple[Any, ...]] = []
        for write in writes:
            if write.created is not None:
                created[write.run_id] = write
            if write.status is not None:
                last[write.run_id] = write
            for event in write.events:
                payload, ref = await self._payload(event.payload, event.encoded)
                event_rows.append(
                    (
                        event.run_id,
                        event.seq,
                        event.type.value,
                        event.step_id,
                        event.item,
                        event.attempt,
                        event.at,
                        orjson.dumps(event.data).decode(),
                        payload,
                        ref,
                    )
                )
        run_rows: list[tuple[Any, ...]] = []
        for write in created.values():
            record, now = write.created, last[write.run_id]
            assert record is not None
            value, ref = await self._payload(record.input, None)
            run_rows.append(
                (
                    record.id,
                    record.workspace,
                    record.workflow_id,
                    record.workflow,
                    record.workflow_version,
                    now.status,
                    value,
                    ref,
                    orjson.dumps(record.context).decode(),
                    orjson.dumps(record.pins).decode(),
                    record.unit_key,
                    record.created_by,
                    record.created_at,
                    now.finished_at,
                    _json(now.error),
                    record.parent_id,
                )
            )
        # Sorted, so that two appends never wait for each other's row locks in a circle.
        moved = sorted((run_id, write) for run_id, write in last.items() if run_id not in created)
        move_rows = [(run_id, w.status, w.finished_at, _json(w.error)) for run_id, w in moved]
        *run_columns, parents = _columns(run_rows, 16)
        return [*run_columns, *_columns(move_rows, 4), *_columns(event_rows, 10), parents]

    async def _payload(self, value: Any, encoded: bytes | None) -> tuple[str | None, str | None]:
        if value is None:
            return None, None
        raw = encoded if encoded is not None else orjson.dumps(value)
        if len(raw) <= PAYLOAD_INLINE_BYTES:
            return raw.decode(), None
        return None, await self._objects.put(raw)

    async def _value(self, text: str | None, ref: str | None) -> Any:
        if ref is not None:
            return orjson.loads(await self._objects.get(ref))
        return orjson.loads(text) if text is not None else None

    async def _event(self, row: asyncpg.Record) -> RunEvent:
        return RunEvent(
            run_id=RunId(_plain(row["run_id"])),
            seq=row["seq"],
            type=EventType(row["type"]),
            at=row["at"],
            step_id=row["step_id"],
            item=row["item"],
            attempt=row["attempt"],
            data=orjson.loads(row["data"]),
            payload=await self._value(row["payload"], row["payload_ref"]),
        )

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        """A connection from the pool; its loss, or a server that is away, is Unavailable."""
        try:
            async with self._opening:
                if self._pool is None:
                    self._pool = await asyncpg.create_pool(
                        self._dsn, min_size=2, max_size=8, command_timeout=30, reset=_keep
                    )
            async with self._pool.acquire(timeout=10) as connection:
                yield connection
        except (OSError, TimeoutError, *_AWAY) as error:
            raise Unavailable(f"PostgreSQL does not answer ({type(error).__name__})") from error


_AWAY = (
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the next use of a connection that the server has ended while nobody used it
    asyncpg.PostgresConnectionError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.PostgresSystemError,
    asyncpg.TransactionRollbackError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.LockNotAvailableError,
)
"""The server's state, never what was written: it passes, and the write is tried again. Any other error ends the run."""


async def _keep(connection: Any) -> None:
    """Nothing here changes a session's state, so giving a connection back needs no round trip."""


def _plain(found: UUID) -> UUID:
    """asyncpg has a class of its own for these, which orjson does not write."""
    return UUID(bytes=found.bytes)


def _json(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


def _columns(rows: list[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]
