"""Workers: what they hold in the table of tasks (see `engine.remote.ports.WorkerStore`), and figures about them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from infra.postgres.connection import transaction
from infra.postgres.tasks import INLINE_BYTES, Objects

# What this worker has already is given again: the answer to an earlier claim may have been lost on its way.
_CLAIM = text("""
UPDATE tasks SET status = 'claimed', claimed_by = :worker, claims = claims + 1,
    lease_until = now() + make_interval(secs => :lease)
WHERE id IN (
    SELECT id FROM tasks WHERE id = ANY(CAST(:ids AS uuid[]))
      AND (status = 'queued' OR (status = 'claimed' AND claimed_by = :worker))
      AND NOT EXISTS (SELECT 1 FROM runs WHERE runs.id = tasks.run_id AND runs.finished_at IS NOT NULL)
    ORDER BY id FOR UPDATE SKIP LOCKED)
RETURNING id, run_id, step_id, item, attempt, workspace, node, node_version, effect, parameters::text,
    parameters_ref, secret_names::text, context::text, timeout, priority
""")

_BEAT = text("""
INSERT INTO workers (id, groups, hostname, pid, concurrency, running, started_at, expires_at)
VALUES (:worker, CAST(:groups AS text[]), :hostname, :pid, :concurrency, :running, now(),
        now() + make_interval(secs => :lease))
ON CONFLICT (id) DO UPDATE SET running = excluded.running, expires_at = excluded.expires_at
""")

_HELD = text("""
SELECT id FROM tasks WHERE id = ANY(CAST(:ids AS uuid[])) AND status = 'claimed' AND claimed_by = :worker
""")

_RENEW = text("""
UPDATE tasks SET lease_until = now() + make_interval(secs => :lease) WHERE id IN (
    SELECT id FROM tasks WHERE id = ANY(CAST(:ids AS uuid[])) AND status = 'claimed' AND claimed_by = :worker
    ORDER BY id FOR UPDATE)
RETURNING id
""")

_NEGLECTED = text("""
SELECT id FROM tasks
WHERE status IN ('queued', 'claimed') AND group_name = ANY(CAST(:groups AS text[])) AND status = 'queued'
  AND published >= :messages
ORDER BY priority DESC, created_at LIMIT :limit
""")

_FINISH = text("""
WITH ends AS (
    SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:outcomes AS json[]), CAST(:outputs AS json[]),
                         CAST(:refs AS text[])) AS e(id, outcome, output, output_ref)
), held AS (
    SELECT tasks.id FROM tasks JOIN ends ON ends.id = tasks.id
    WHERE status = 'claimed' AND claimed_by = :worker ORDER BY tasks.id FOR UPDATE OF tasks
)
UPDATE tasks SET status = 'done', outcome = ends.outcome, output = ends.output, output_ref = ends.output_ref,
    finished_at = now()
FROM ends JOIN held ON held.id = ends.id WHERE tasks.id = ends.id
""")

_AGAIN = text("""
UPDATE tasks SET status = 'queued', claimed_by = NULL, lease_until = NULL, publish_at = now() WHERE id IN (
    SELECT id FROM tasks WHERE id = ANY(CAST(:ids AS uuid[])) AND status = 'claimed' AND claimed_by = :worker
    ORDER BY id FOR UPDATE)
""")

_LOST = text("""
UPDATE tasks SET status = 'lost', finished_at = now() WHERE id IN (
    SELECT id FROM tasks WHERE id = ANY(CAST(:ids AS uuid[])) AND status = 'claimed' AND claimed_by = :worker
    ORDER BY id FOR UPDATE)
""")

_REFUSED = text("""
UPDATE tasks SET publish_at = now() WHERE id IN (
    SELECT id FROM tasks WHERE id = ANY(CAST(:ids AS uuid[])) AND status = 'queued' ORDER BY id FOR UPDATE)
""")

_LEAVE = text("DELETE FROM workers WHERE id = :worker")

_LIVE = text("SELECT * FROM workers WHERE expires_at > now() ORDER BY started_at, id")

_OPEN = text("""
SELECT group_name, count(*) FILTER (WHERE status = 'queued') AS queued,
    count(*) FILTER (WHERE status = 'claimed') AS running,
    coalesce(extract(epoch FROM now() - min(created_at) FILTER (WHERE status = 'queued')), 0)::float8 AS oldest
FROM tasks WHERE status IN ('queued', 'claimed') GROUP BY group_name
""")


_MESSAGES_IN_VAIN = 3


@dataclass(frozen=True, slots=True)
class WorkerLife:
    """A worker process that lives."""

    id: UUID
    groups: tuple[str, ...]
    hostname: str
    pid: int
    concurrency: int
    running: int
    started_at: datetime


@dataclass(frozen=True, slots=True)
class GroupFigures:
    """What waits for a node group's workers. `oldest_seconds` is the age of the task that is queued longest."""

    group: str
    queued: int
    running: int
    workers: int
    oldest_seconds: float


class Workers:
    """See the module."""

    def __init__(self, engine: AsyncEngine, objects: Objects) -> None:
        self._engine = engine
        self._objects = objects

    async def claim(self, worker: UUID, ids: Sequence[UUID], lease_seconds: float) -> list[dict[str, Any]]:
        """Take those tasks that nobody has. What this worker has already is given again."""
        values = {"worker": worker, "ids": list(ids), "lease": lease_seconds}
        async with transaction(self._engine) as connection:
            rows = [dict(row) for row in (await connection.execute(_CLAIM, values)).mappings()]
        for row in rows:
            if row["parameters_ref"] is not None:
                row["parameters"] = await self._objects.get(row["parameters_ref"])
        return rows

    async def beat(
        self, worker: UUID, about: Mapping[str, object], held: Sequence[UUID], lease_seconds: float, renew: bool
    ) -> set[UUID]:
        """Say that the worker lives. Returns which of `held` are still its own; `renew` extends their lease."""
        values = {"worker": worker, "ids": list(held)}
        async with transaction(self._engine) as connection:
            await connection.execute(_BEAT, {"worker": worker, **about, "lease": lease_seconds})
            if not held:
                return set()
            rows = await connection.execute(
                *((_RENEW, {**values, "lease": lease_seconds}) if renew else (_HELD, values))
            )
            return {row.id for row in rows}

    async def neglected(self, groups: Sequence[str], limit: int) -> list[UUID]:
        """Queued tasks for which several messages have gone out in vain, oldest first."""
        values = {"groups": list(groups), "limit": limit, "messages": _MESSAGES_IN_VAIN}
        async with transaction(self._engine) as connection:
            return [row.id for row in await connection.execute(_NEGLECTED, values)]

    async def finish(self, worker: UUID, ends: Sequence[tuple[UUID, bytes, bytes | None]]) -> None:
        """Store (id, outcome, output) of tasks that are still this worker's; of others nothing changes."""
        outputs, refs = [], []
        for _, _, output in ends:
            large = output is not None and len(output) > INLINE_BYTES
            refs.append(await self._objects.put(output) if output is not None and large else None)
            outputs.append(None if output is None or large else output.decode())
        values = {
            "worker": worker,
            "ids": [task_id for task_id, _, _ in ends],
            "outcomes": [outcome.decode() for _, outcome, _ in ends],
            "outputs": outputs,
            "refs": refs,
        }
        async with transaction(self._engine) as connection:
            await connection.execute(_FINISH, values)

    async def give_back(
        self, worker: UUID, again: Sequence[UUID], lost: Sequence[UUID], refused: Sequence[UUID]
    ) -> None:
        """Leave tasks to others: to be done again, lost half way, or never claimed."""
        async with transaction(self._engine) as connection:
            for statement, ids in ((_AGAIN, again), (_LOST, lost)):
                if ids:
                    await connection.execute(statement, {"ids": list(ids), "worker": worker})
            if refused:
                await connection.execute(_REFUSED, {"ids": list(refused)})

    async def leave(self, worker: UUID) -> None:
        """The worker is gone."""
        async with transaction(self._engine) as connection:
            await connection.execute(_LEAVE, {"worker": worker})

    async def live(self) -> list[WorkerLife]:
        """The workers that live, oldest first."""
        async with transaction(self._engine) as connection:
            rows = (await connection.execute(_LIVE)).all()
        return [
            WorkerLife(row.id, tuple(row.groups), row.hostname, row.pid, row.concurrency, row.running, row.started_at)
            for row in rows
        ]

    async def figures(self) -> list[GroupFigures]:
        """Queue depth for each node group that has tasks or workers, by name."""
        async with transaction(self._engine) as connection:
            waiting = {row.group_name: row for row in await connection.execute(_OPEN)}
            lives = (await connection.execute(_LIVE)).all()
        serving = [group for life in lives for group in life.groups]
        return [
            GroupFigures(
                group,
                waiting[group].queued if group in waiting else 0,
                waiting[group].running if group in waiting else 0,
                serving.count(group),
                waiting[group].oldest if group in waiting else 0.0,
            )
            for group in sorted({*waiting, *serving})
        ]
