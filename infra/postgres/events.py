"""The table of events."""

import uuid
from collections.abc import Collection
from datetime import datetime
from typing import Any, TypeAlias

from sqlalchemy import Row, case, delete, exists, func, null, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core.clock import uuid7
from core.event import Accepted, Event
from core.ids import Workspace
from infra.postgres.connection import transaction
from infra.postgres.page import Page, check_limit, parse_cursor
from infra.postgres.tables import events, triggers

_Ids: TypeAlias = list[uuid.UUID]
_Found: TypeAlias = list[Event]
_MOST_SINCE = 1_000
_ID_SLACK_MS = 1_000
"""How far an id's time may be from the time of receipt."""


class Events:
    """See `engine.events.ports.EventLog` and `engine.triggers.ports.EventStore`. Also the list for people."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def add(self, event: Event, since: datetime) -> Accepted:
        """See `engine.triggers.ports.EventStore.add`."""
        wanted = exists().where(
            triggers.c.workspace == event.workspace,
            triggers.c.event == event.name,
            triggers.c.deleted_at.is_(None),
            ~triggers.c.paused,
        )
        query = insert(events).values(
            id=event.id,
            workspace=event.workspace,
            name=event.name,
            payload=event.payload,
            dedupe_key=event.dedupe_key,
            received_at=event.received_at,
            created_by=event.created_by,
            # Most events only wake runs: with no trigger there, nobody has to look at them again.
            dispatched_at=case((wanted, null()), else_=event.received_at),
        )
        async with transaction(self._engine) as connection:
            first = await self._first(connection, event, since)
            if first is not None:
                return Accepted(first, first.id != event.id, True)
            row = (
                await connection.execute(query.on_conflict_do_nothing().returning(events.c.dispatched_at))
            ).one_or_none()
        return Accepted(event, duplicate=False, has_triggers=row is None or row.dispatched_at is None)

    async def ids_after(self, floor: uuid.UUID) -> _Ids:
        """See `engine.events.ports.EventLog.ids_after`."""
        async with transaction(self._engine) as connection:
            return [*(await connection.scalars(select(events.c.id).where(events.c.id > floor).order_by(events.c.id)))]

    async def get_many(self, ids: Collection[uuid.UUID]) -> _Found:
        """See `engine.events.ports.EventLog.get_many`."""
        return await self._all(select(events).where(events.c.id.in_(ids)).order_by(events.c.id))

    async def since(self, workspace: Workspace, name: str, after: datetime, last: uuid.UUID | None = None) -> _Found:
        """See `engine.events.ports.EventLog.since`."""
        floor = uuid7(max(int(after.timestamp() * 1000) - _ID_SLACK_MS, 0), 0)
        wanted = (events.c.workspace == workspace) & (events.c.name == name) & (events.c.id > (last or floor))
        query = select(events).where(wanted, events.c.received_at > after)
        return await self._all(query.order_by(events.c.id).limit(_MOST_SINCE))

    async def undispatched(self, before: datetime, limit: int) -> _Found:
        """See `engine.triggers.ports.EventStore.undispatched`."""
        query = select(events).where(events.c.dispatched_at.is_(None), events.c.received_at < before)
        return await self._all(query.order_by(events.c.received_at).limit(limit))

    async def list(
        self, workspace: Workspace, *, name: str | None = None, limit: int = 20, cursor: str | None = None
    ) -> Page[Event]:
        """Events, newest first. Raises Invalid for a bad limit or cursor."""
        check_limit(limit)
        query = select(events).where(events.c.workspace == workspace)
        if name is not None:
            query = query.where(events.c.name == name)
        after = parse_cursor(cursor)
        if after is not None:
            query = query.where(events.c.id < after)
        found = await self._all(query.order_by(events.c.id.desc()).limit(limit + 1))
        return Page(tuple(found[:limit]), str(found[limit - 1].id) if len(found) > limit else None)

    async def expire(self, before: datetime) -> int:
        """Forget events from before a time that the triggers have seen; return how many."""
        old = (events.c.received_at < before) & events.c.dispatched_at.is_not(None)
        async with transaction(self._engine) as connection:
            return (await connection.execute(delete(events).where(old))).rowcount

    async def _first(self, connection: AsyncConnection, event: Event, since: datetime) -> Event | None:
        """The event that this one repeats. Of two at once one waits for the other: their key is locked."""
        if event.dedupe_key is None:
            return None
        key = f"{len(event.workspace)}:{event.workspace}/{len(event.name)}:{event.name}/{event.dedupe_key}"
        await connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(key, 0))))
        query = (
            select(events)
            .where(events.c.workspace == event.workspace, events.c.name == event.name)
            .where(events.c.dedupe_key == event.dedupe_key, events.c.received_at > since)
            .order_by(events.c.received_at)
            .limit(1)
        )
        row = (await connection.execute(query)).first()
        return None if row is None else _event(row)

    async def _all(self, query: Any) -> _Found:
        async with transaction(self._engine) as connection:
            return [_event(row) for row in await connection.execute(query)]


def _event(row: Row[Any]) -> Event:
    return Event(
        id=row.id,
        workspace=Workspace(row.workspace),
        name=row.name,
        payload=row.payload,
        received_at=row.received_at,
        dedupe_key=row.dedupe_key,
        created_by=row.created_by,
    )
