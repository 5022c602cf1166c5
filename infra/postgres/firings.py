"""The table of firings: what triggers fired, once for each key."""

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, case, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core.clock import Clock
from core.firing import DELIVERY, Firing, FiringStatus
from core.ids import RunId, WorkflowId, Workspace
from infra.postgres.connection import transaction
from infra.postgres.page import Page, check_limit, parse_cursor
from infra.postgres.tables import events, firings

_NOTHING = (FiringStatus.REFUSED, FiringStatus.FAILED)


class Firings:
    """See `engine.triggers.ports.FiringStore`. Also the history for people."""

    def __init__(self, engine: AsyncEngine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    async def reserve(self, wanted: Sequence[Firing], event_id: uuid.UUID | None = None) -> list[Firing]:
        """See `engine.triggers.ports.FiringStore.reserve`."""
        async with transaction(self._engine) as connection:
            fresh = await insert_firings(connection, wanted)
            if event_id is not None:
                done = update(events).where(events.c.id == event_id, events.c.dispatched_at.is_(None))
                await connection.execute(done.values(dispatched_at=self._clock.now()))
            return fresh

    async def by_key(self, trigger_id: uuid.UUID, key: str) -> Firing | None:
        """See `engine.triggers.ports.FiringStore.by_key`."""
        query = select(firings).where(firings.c.trigger_id == trigger_id, firings.c.key == key)
        async with transaction(self._engine) as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else _firing(row)

    async def settle(self, firing_id: uuid.UUID, status: FiringStatus, reason: str | None = None) -> None:
        """See `engine.triggers.ports.FiringStore.settle`."""
        values: dict[str, Any] = {"status": status.value, "reason": reason}
        if status in _NOTHING:
            # The sender may deliver again, once the workflow or the input is mended. Times and events do not come back.
            spent = firings.c.key + "#" + func.cast(firings.c.id, firings.c.key.type)
            values["key"] = case((firings.c.key.startswith(DELIVERY), spent), else_=firings.c.key)
            values["run_id"] = None
        mine = (firings.c.id == firing_id) & (firings.c.status == FiringStatus.RESERVED.value)
        async with transaction(self._engine) as connection:
            await connection.execute(update(firings).where(mine).values(**values))

    async def take_over(self, now: datetime, before: datetime, limit: int) -> list[Firing]:
        """See `engine.triggers.ports.FiringStore.take_over`."""
        left = (
            select(firings.c.id)
            .where(firings.c.status == FiringStatus.RESERVED.value, firings.c.touched_at < before)
            .order_by(firings.c.touched_at)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        async with transaction(self._engine) as connection:
            ids = (await connection.scalars(left)).all()
            if not ids:
                return []
            query = update(firings).where(firings.c.id.in_(ids)).values(touched_at=now).returning(firings)
            return [_firing(row) for row in await connection.execute(query)]

    async def history(self, trigger_id: uuid.UUID, *, limit: int = 20, cursor: str | None = None) -> Page[Firing]:
        """What a trigger fired, newest first. Raises Invalid for a bad limit or cursor."""
        check_limit(limit)
        query = select(firings).where(firings.c.trigger_id == trigger_id)
        after = parse_cursor(cursor)
        if after is not None:
            query = query.where(firings.c.id < after)
        async with transaction(self._engine) as connection:
            rows = await connection.execute(query.order_by(firings.c.id.desc()).limit(limit + 1))
            found = [_firing(row) for row in rows]
        return Page(tuple(found[:limit]), str(found[limit - 1].id) if len(found) > limit else None)

    async def expire(self, before: datetime) -> int:
        """Forget firings from before a time, unless their run is still to be started; return how many."""
        old = (firings.c.at < before) & (firings.c.status != FiringStatus.RESERVED.value)
        async with transaction(self._engine) as connection:
            return (await connection.execute(delete(firings).where(old))).rowcount


async def insert_firings(connection: AsyncConnection, wanted: Sequence[Firing]) -> list[Firing]:
    """Record firings inside a transaction; gives those whose key is new to their trigger."""
    if not wanted:
        return []
    rows = [
        {
            "id": one.id,
            "trigger_id": one.trigger_id,
            "workspace": one.workspace,
            "workflow_id": one.workflow_id,
            "key": one.key,
            "run_id": one.run_id,
            "status": one.status.value,
            "input": one.input,
            "context": one.context,
            "unit_key": one.unit_key,
            "created_by": one.created_by,
            "scheduled_for": one.scheduled_for,
            "reason": one.reason,
            "at": one.at,
            "touched_at": one.at,
        }
        for one in wanted
    ]
    query = insert(firings).values(rows).on_conflict_do_nothing().returning(firings.c.id)
    fresh = set((await connection.scalars(query)).all())
    return [one for one in wanted if one.id in fresh]


def _firing(row: Row[Any]) -> Firing:
    return Firing(
        id=row.id,
        trigger_id=row.trigger_id,
        workspace=Workspace(row.workspace),
        workflow_id=WorkflowId(row.workflow_id),
        key=row.key,
        run_id=None if row.run_id is None else RunId(row.run_id),
        status=FiringStatus(row.status),
        at=row.at,
        input=row.input,
        context=row.context,
        unit_key=row.unit_key,
        created_by=row.created_by,
        scheduled_for=row.scheduled_for,
        reason=row.reason,
    )
