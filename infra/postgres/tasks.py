"""The table of tasks as the owners of runs see it; see `engine.remote.ports.TaskStore`.

Statements that touch many rows lock them in the order of their ids, so two of them never wait for each other in a
circle. Payloads go in and out as JSON texts: functions that take a JSON document apart refuse `\\u0000`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from core.errors import Conflict, NotFound
from infra.postgres.connection import transaction

INLINE_BYTES = 32 * 1024
"""Larger parameters and outputs go to the object store; the row holds a reference."""

_ADD = text("""
INSERT INTO tasks (id, run_id, step_id, item, attempt, workspace, group_name, node, node_version, effect, parameters,
                   parameters_ref, secret_names, context, timeout, priority, status, waiter, created_at, publish_at)
SELECT n.*, 'queued', :waiter, now(), now() + make_interval(secs => :patience)
FROM unnest(CAST(:id AS uuid[]), CAST(:run_id AS uuid[]), CAST(:step_id AS text[]), CAST(:item AS int[]),
            CAST(:attempt AS int[]), CAST(:workspace AS text[]), CAST(:group_name AS text[]), CAST(:node AS text[]),
            CAST(:node_version AS text[]), CAST(:effect AS text[]), CAST(:parameters AS json[]),
            CAST(:parameters_ref AS text[]), CAST(:secret_names AS json[]), CAST(:context AS json[]),
            CAST(:timeout AS float8[]), CAST(:priority AS int2[])) AS n
ON CONFLICT (id) DO UPDATE SET waiter = excluded.waiter
RETURNING id, xmax = 0 AS fresh
""")

_FINISHED = text("""
SELECT id, status, outcome::text, output::text, output_ref FROM tasks
WHERE waiter = :waiter AND status IN ('done', 'lost', 'cancelled') AND NOT id = ANY(CAST(:seen AS uuid[]))
LIMIT 1000
""")

_LOOK = text("SELECT id, status FROM tasks WHERE id = ANY(CAST(:ids AS uuid[]))")

_SERVED = text("SELECT DISTINCT unnest(groups) AS served FROM workers WHERE expires_at > now()")

_WAIT = text("""
UPDATE tasks SET waiter = :waiter WHERE id IN (
    SELECT id FROM tasks WHERE id = ANY(CAST(:ids AS uuid[])) AND waiter <> :waiter ORDER BY id FOR UPDATE)
""")

_WITHDRAW = text("""
UPDATE tasks SET status = 'cancelled', finished_at = now() WHERE id IN (
    SELECT id FROM tasks WHERE id = ANY(CAST(:ids AS uuid[])) AND status IN ('queued', 'claimed')
    ORDER BY id FOR UPDATE)
""")

# What an owner that died could not withdraw any more.
_WITHDRAW_ENDED = text("""
UPDATE tasks SET status = 'cancelled', finished_at = now() WHERE id IN (
    SELECT tasks.id FROM tasks JOIN runs ON runs.id = tasks.run_id
    WHERE tasks.status IN ('queued', 'claimed') AND runs.finished_at IS NOT NULL
    ORDER BY tasks.id LIMIT :limit FOR UPDATE OF tasks SKIP LOCKED)
""")

_OPEN = text("""
SELECT id, step_id, item, attempt FROM tasks WHERE run_id = :run_id AND status IN ('queued', 'claimed')
""")

_FORGET = text("""
DELETE FROM tasks WHERE id IN (
    SELECT id FROM tasks WHERE id = ANY(CAST(:ids AS uuid[])) AND status IN ('done', 'lost', 'cancelled')
    ORDER BY id FOR UPDATE)
""")

_UNPUBLISHED = text("""
UPDATE tasks SET publish_at = now() + interval '1 second' WHERE id IN (
    SELECT id FROM tasks WHERE id = ANY(CAST(:ids AS uuid[])) AND status = 'queued' ORDER BY id FOR UPDATE)
""")

_LOSE = text("""
UPDATE tasks SET status = 'lost', finished_at = now() WHERE id IN (
    SELECT id FROM tasks WHERE status = 'claimed' AND lease_until < now() ORDER BY id LIMIT 1000
    FOR UPDATE SKIP LOCKED)
""")

# A queue that is long because all workers are busy needs no more messages; it gets one now and then, all the same,
# since a message may be lost while they are busy for hours.
_DUE = text("""
UPDATE tasks SET published = published + 1,
    publish_at = now() + make_interval(secs => least(:most, :patience * power(2, least(published, 16))))
WHERE id IN (
    SELECT id FROM tasks
    WHERE status IN ('queued', 'claimed') AND status = 'queued' AND publish_at < now()
      AND (publish_at < now() - make_interval(secs => :most) OR EXISTS (
          SELECT 1 FROM workers
          WHERE expires_at > now() AND running < concurrency AND groups @> ARRAY[tasks.group_name]))
    ORDER BY priority DESC, publish_at LIMIT :limit FOR UPDATE SKIP LOCKED)
RETURNING group_name, id
""")

_CLEAR = text("""
DELETE FROM tasks WHERE id IN (
    SELECT tasks.id FROM tasks LEFT JOIN runs ON runs.id = tasks.run_id
    WHERE tasks.created_at < now() - interval '1 minute'
      AND (runs.id IS NULL OR runs.finished_at < now() - interval '1 minute')
    ORDER BY tasks.id LIMIT :limit FOR UPDATE OF tasks SKIP LOCKED)
""")

_CLEAR_WORKERS = text("DELETE FROM workers WHERE expires_at < now() - interval '1 minute'")

_JSON_COLUMNS = ("secret_names", "context")


class Objects(Protocol):
    """Where large payloads are kept, by content."""

    async def put(self, content: bytes) -> str:
        """Store bytes; returns the reference."""
        ...

    async def get(self, ref: str) -> bytes:
        """The bytes behind a reference."""
        ...


class Tasks:
    """See the module.

    Args:
        patience_seconds: how long a message may take to be claimed before it counts as lost.
        most_seconds: the longest pause between two messages for one task.
    """

    def __init__(
        self, engine: AsyncEngine, objects: Objects, patience_seconds: float = 5.0, most_seconds: float = 60.0
    ) -> None:
        self._engine = engine
        self._objects = objects
        self._patience = patience_seconds
        self._most = most_seconds

    async def add(self, waiter: UUID, rows: Sequence[Mapping[str, Any]]) -> set[UUID]:
        """Enter tasks; those that exist get a new waiter and stay as they are. Returns the ids of the new ones."""
        stored = [await self._stored(row) for row in sorted(rows, key=lambda one: one["id"].int)]
        columns = {name: [row[name] for row in stored] for name in stored[0]}
        async with transaction(self._engine) as connection:
            found = await connection.execute(_ADD, {**columns, "waiter": waiter, "patience": self._patience})
            return {row.id for row in found if row.fresh}

    async def finished(self, waiter: UUID, seen: Sequence[UUID]) -> list[dict[str, Any]]:
        """Tasks of this waiter that have ended, without those already seen: `id status outcome output gone`."""
        async with transaction(self._engine) as connection:
            rows = (await connection.execute(_FINISHED, {"waiter": waiter, "seen": list(seen)})).all()
        return [await self._ended(row) for row in rows]

    async def look(self, ids: Sequence[UUID]) -> tuple[dict[UUID, str], set[str]]:
        """The status of each task that exists, and the groups that live workers serve."""
        async with transaction(self._engine) as connection:
            rows = (await connection.execute(_LOOK, {"ids": list(ids)})).all()
            served = {row.served for row in await connection.execute(_SERVED)}
        return {row.id: row.status for row in rows}, served

    async def claim_waiting(self, waiter: UUID, ids: Sequence[UUID]) -> None:
        """Become the waiter of these tasks again."""
        async with transaction(self._engine) as connection:
            await connection.execute(_WAIT, {"ids": list(ids), "waiter": waiter})

    async def withdraw(self, ids: Sequence[UUID]) -> None:
        """Cancel tasks that have not ended."""
        async with transaction(self._engine) as connection:
            await connection.execute(_WITHDRAW, {"ids": list(ids)})

    async def withdraw_ended(self, limit: int) -> int:
        """Cancel tasks of runs that have ended. Returns how many."""
        async with transaction(self._engine) as connection:
            return (await connection.execute(_WITHDRAW_ENDED, {"limit": limit})).rowcount

    async def open_of(self, run_id: UUID) -> list[tuple[UUID, str, int, int]]:
        """Tasks of a run that have not ended, as (id, step, item, attempt)."""
        async with transaction(self._engine) as connection:
            rows = await connection.execute(_OPEN, {"run_id": run_id})
            return [(row.id, row.step_id, row.item, row.attempt) for row in rows]

    async def forget(self, ids: Sequence[UUID]) -> None:
        """Delete tasks that have ended."""
        async with transaction(self._engine) as connection:
            await connection.execute(_FORGET, {"ids": list(ids)})

    async def unpublished(self, ids: Sequence[UUID]) -> None:
        """These tasks' messages did not go out: they are due for another in a moment."""
        async with transaction(self._engine) as connection:
            await connection.execute(_UNPUBLISHED, {"ids": list(ids)})

    async def lose_expired(self) -> int:
        """Tasks whose worker's lease has expired become lost. Returns how many."""
        async with transaction(self._engine) as connection:
            return (await connection.execute(_LOSE)).rowcount

    async def due(self, limit: int) -> list[tuple[str, UUID]]:
        """Queued tasks whose message seems to be lost, as (group, id). Each is due again later, ever less often."""
        values = {"limit": limit, "patience": self._patience, "most": self._most}
        async with transaction(self._engine) as connection:
            return [(row.group_name, row.id) for row in await connection.execute(_DUE, values)]

    async def clear(self, limit: int) -> int:
        """Delete tasks of finished runs, and workers long dead. Returns how many tasks."""
        async with transaction(self._engine) as connection:
            await connection.execute(_CLEAR_WORKERS)
            return (await connection.execute(_CLEAR, {"limit": limit})).rowcount

    async def _stored(self, row: Mapping[str, Any]) -> dict[str, Any]:
        parameters: bytes = row["parameters"]
        large = len(parameters) > INLINE_BYTES
        return {
            **row,
            **{name: row[name].decode() for name in _JSON_COLUMNS},
            "parameters": None if large else parameters.decode(),
            "parameters_ref": await self._objects.put(parameters) if large else None,
        }

    async def _ended(self, row: Any) -> dict[str, Any]:
        output, gone = None if row.output is None else row.output.encode(), False
        if row.output_ref is not None:
            try:
                output = await self._objects.get(row.output_ref)
            except (NotFound, Conflict):
                gone = True
        return {"id": row.id, "status": row.status, "outcome": row.outcome, "output": output, "gone": gone}
