"""The audit log: who did what, when and why. The database refuses to change or delete a line."""

import uuid
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from core.clock import Clock
from core.ids import Workspace
from core.json import JsonValue
from infra.postgres.connection import transaction
from infra.postgres.page import Page, check_limit, parse_cursor
from infra.postgres.tables import audit_log


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One act.

    Attributes:
        action: what was done, as `noun.verb` (`secret.put`).
        target: to what (an id or a name).
        detail: small facts; never a secret.
    """

    id: uuid.UUID
    workspace: Workspace
    at: datetime
    actor: str
    action: str
    target: str
    detail: dict[str, JsonValue]


class AuditLog:
    """The table of acts."""

    def __init__(self, engine: AsyncEngine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    async def append(
        self, workspace: Workspace, actor: str, action: str, target: str, detail: dict[str, JsonValue] | None = None
    ) -> AuditEntry:
        """Record an act."""
        entry = AuditEntry(
            self._clock.new_id(), workspace, self._clock.now(), actor, action, target, dict(detail or {})
        )
        async with transaction(self._engine) as connection:
            await connection.execute(
                audit_log.insert().values(
                    id=entry.id,
                    workspace=workspace,
                    at=entry.at,
                    actor=actor,
                    action=action,
                    target=target,
                    detail=entry.detail,
                )
            )
        return entry

    async def list(
        self,
        workspace: Workspace,
        *,
        limit: int = 20,
        cursor: str | None = None,
        action: str | None = None,
        target: str | None = None,
    ) -> Page[AuditEntry]:
        """Acts, newest first. Raises Invalid for a bad limit or cursor."""
        check_limit(limit)
        query = select(audit_log).where(audit_log.c.workspace == workspace)
        after = parse_cursor(cursor)
        if after is not None:
            query = query.where(audit_log.c.id < after)
        if action is not None:
            query = query.where(audit_log.c.action == action)
        if target is not None:
            query = query.where(audit_log.c.target == target)
        query = query.order_by(audit_log.c.id.desc()).limit(limit + 1)
        async with transaction(self._engine) as connection:
            rows = (await connection.execute(query)).all()
        items = tuple(
            AuditEntry(row.id, Workspace(row.workspace), row.at, row.actor, row.action, row.target, row.detail)
            for row in rows[:limit]
        )
        return Page(items, str(items[-1].id) if len(rows) > limit else None)
