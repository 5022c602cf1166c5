"""Idempotency keys: a repeated request gets the first one's answer instead of doing the thing twice."""

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias

from sqlalchemy import delete, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from core.clock import Clock
from core.ids import Workspace
from core.json import JsonValue
from infra.postgres.connection import transaction
from infra.postgres.tables import idempotency

KEPT = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Fresh:
    """First of its kind: do it, under this id."""

    resource_id: uuid.UUID


@dataclass(frozen=True, slots=True)
class Replay:
    """Done before: answer with this."""

    status: int
    response: JsonValue


@dataclass(frozen=True, slots=True)
class InProgress:
    """Begun and not yet answered. What was begun has this id, so that it can be looked up."""

    resource_id: uuid.UUID


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The key was used before for another request."""


Reservation: TypeAlias = Fresh | Replay | InProgress | Mismatch


class Idempotency:
    """The table of idempotency keys."""

    def __init__(self, engine: AsyncEngine, clock: Clock, kept: timedelta = KEPT) -> None:
        self._engine = engine
        self._clock = clock
        self._kept = kept

    async def reserve(
        self, workspace: Workspace, key: str, method_path: str, body_hash: str, now: datetime
    ) -> Reservation:
        """Claim a key for a request, or learn what became of the request that has it. Of two at once, one is fresh."""
        fresh_id = self._clock.new_id()
        fields = {
            "method_path": method_path,
            "body_hash": body_hash,
            "resource_id": fresh_id,
            "created_at": now,
            "expires_at": now + self._kept,
        }
        claim = (
            insert(idempotency)
            .values(workspace=workspace, key=key, **fields)
            .on_conflict_do_update(
                index_elements=[idempotency.c.workspace, idempotency.c.key],
                set_={**fields, "status": None, "response": None},
                where=idempotency.c.expires_at <= now,
            )
            .returning(idempotency.c.resource_id)
        )
        mine = (idempotency.c.workspace == workspace) & (idempotency.c.key == key)
        async with transaction(self._engine) as connection:
            if (await connection.execute(claim)).first() is not None:
                return Fresh(fresh_id)
            row = (await connection.execute(select(idempotency).where(mine))).one_or_none()
        if row is None:  # released between the two statements: the key is free again
            return await self.reserve(workspace, key, method_path, body_hash, now)
        if (row.method_path, row.body_hash) != (method_path, body_hash):
            return Mismatch()
        if row.status is None:
            return InProgress(row.resource_id)
        return Replay(row.status, row.response)

    async def complete(
        self, workspace: Workspace, key: str, resource_id: uuid.UUID, status: int, response: JsonValue
    ) -> None:
        """Keep the answer for those who ask again. Changes nothing when the key has passed to another request."""
        query = (
            update(idempotency)
            .where(idempotency.c.workspace == workspace, idempotency.c.key == key)
            .where(idempotency.c.resource_id == resource_id, idempotency.c.status.is_(None))
            .values(status=status, response=response)
        )
        async with transaction(self._engine) as connection:
            await connection.execute(query)

    async def release(self, workspace: Workspace, key: str, resource_id: uuid.UUID) -> None:
        """Give an unanswered key back, because nothing was begun after all."""
        query = delete(idempotency).where(
            idempotency.c.workspace == workspace,
            idempotency.c.key == key,
            idempotency.c.resource_id == resource_id,
            idempotency.c.status.is_(None),
        )
        async with transaction(self._engine) as connection:
            await connection.execute(query)

    async def expire(self, now: datetime) -> int:
        """Forget keys whose time is over; return how many."""
        query = delete(idempotency).where(idempotency.c.expires_at <= now)
        async with transaction(self._engine) as connection:
            return (await connection.execute(query)).rowcount
