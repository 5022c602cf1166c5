"""Variables that outlive a run. Those of one run are part of its history, and not here."""

import base64
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import JSON, ColumnElement, and_, case, delete, func, or_, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from core.clock import Clock
from core.errors import Conflict, Fault, Invalid, NotFound
from core.ids import Workspace
from core.json import JsonValue, decode, encode
from core.variable import Variable, VariableScope
from infra.postgres.connection import transaction
from infra.postgres.page import Page, check_limit
from infra.postgres.tables import variables as table

MAX_STORED = 1_000
"""Variables of one owner (the workspace, a workflow, a session)."""

_SWEEP_ROWS = 5_000


@dataclass(frozen=True, slots=True)
class StoredVariable:
    """A variable and whose it is. `owner`: the workflow's or the session's name; empty for all."""

    variable: Variable
    owner: str
    updated_at: datetime
    updated_by: str


class Variables:
    """The table. An expired row counts as none everywhere; `sweep` removes it."""

    def __init__(self, engine: AsyncEngine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    async def visible(self, workspace: Workspace, workflow: str, session: str, now: datetime) -> dict[str, Variable]:
        """What a run of this workflow and session sees, by name; of equal names the narrowest scope's.

        Args:
            session: empty for a run without one.

        Raises:
            Unavailable: the database does not answer.
        """
        owners = [_owned(VariableScope.GLOBAL, ""), _owned(VariableScope.WORKFLOW, workflow)]
        if session:
            owners.append(_owned(VariableScope.SESSION, session))
        width = case({VariableScope.GLOBAL: 0, VariableScope.WORKFLOW: 1}, value=table.c.scope, else_=2)
        query = (
            select(table.c.name, table.c.value, table.c.scope, table.c.expires_at)
            .where(table.c.workspace == workspace, or_(*owners), _alive(now))
            .order_by(width)
        )
        async with transaction(self._engine) as connection:
            rows = (await connection.execute(query)).all()
        # A narrower one comes later and takes the name.
        return {
            row.name: Variable(name=row.name, value=row.value, scope=row.scope, expires_at=row.expires_at)
            for row in rows
        }

    async def set(
        self,
        workspace: Workspace,
        scope: VariableScope,
        owner: str,
        name: str,
        value: JsonValue,
        expires_at: datetime | None,
        updated_by: str,
    ) -> None:
        """As `put`, for who does not want to know."""
        await self.put(workspace, scope, owner, name, value, expires_at, updated_by)

    async def put(
        self,
        workspace: Workspace,
        scope: VariableScope,
        owner: str,
        name: str,
        value: JsonValue,
        expires_at: datetime | None,
        updated_by: str,
    ) -> StoredVariable:
        """Set a variable, whatever it was; gives it back.

        Raises:
            Conflict: the owner has MAX_STORED of them already.
            Unavailable: the database does not answer.
        """
        key = {"workspace": workspace, "scope": scope.value, "owner": owner}
        now = self._clock.now()
        # A JSON null, which is a value; SQL's NULL would be none.
        kept = JSON.NULL if value is None else value
        fresh = {"value": kept, "expires_at": expires_at, "updated_at": now, "updated_by": updated_by}
        query = insert(table).values(**key, name=name, **fresh)
        others = (
            select(func.count())
            .select_from(table)
            .where(table.c.workspace == workspace, _owned(scope, owner), table.c.name != name, _alive(now))
        )
        async with transaction(self._engine) as connection:
            if (await connection.execute(others)).scalar_one() >= MAX_STORED:
                raise Conflict(f"there are {MAX_STORED} variables of this scope already; delete some of them")
            await connection.execute(query.on_conflict_do_update(index_elements=list(table.primary_key), set_=fresh))
        return StoredVariable(
            Variable(name=name, value=value, scope=scope, expires_at=expires_at), owner, now, updated_by
        )

    async def list(
        self,
        workspace: Workspace,
        *,
        limit: int = 20,
        cursor: str | None = None,
        scope: VariableScope | None = None,
        workflow: str | None = None,
        session: str | None = None,
    ) -> Page[StoredVariable]:
        """Variables by scope, owner and name.

        Args:
            workflow: only those of this workflow; with `session` those of both.

        Raises:
            Invalid: a limit or a cursor that is none.
        """
        check_limit(limit)
        after = _place(cursor)
        key = (table.c.scope, table.c.owner, table.c.name)
        query = select(*key, table.c.value, table.c.expires_at, table.c.updated_at, table.c.updated_by)
        query = query.where(table.c.workspace == workspace, _alive(self._clock.now())).order_by(*key).limit(limit + 1)
        if scope is not None:
            query = query.where(table.c.scope == scope.value)
        owners = [(VariableScope.WORKFLOW, workflow), (VariableScope.SESSION, session)]
        wanted = [_owned(owned, owner) for owned, owner in owners if owner is not None]
        if wanted:
            query = query.where(or_(*wanted))
        if after is not None:
            query = query.where(tuple_(*key) > after)
        async with transaction(self._engine) as connection:
            rows = (await connection.execute(query)).all()
        found = tuple(
            StoredVariable(
                Variable(name=row.name, value=row.value, scope=row.scope, expires_at=row.expires_at),
                row.owner,
                row.updated_at,
                row.updated_by,
            )
            for row in rows[:limit]
        )
        return Page(found, _cursor(found[-1]) if len(rows) > limit else None)

    async def delete(self, workspace: Workspace, scope: VariableScope, owner: str, name: str) -> None:
        """Forget a variable. Raises NotFound when there is none."""
        query = delete(table).where(table.c.workspace == workspace, _owned(scope, owner), table.c.name == name)
        alive = query.returning(_alive(self._clock.now()))
        async with transaction(self._engine) as connection:
            found = (await connection.execute(alive)).scalar_one_or_none()
        if not found:
            raise NotFound(f"there is no variable {name} of the scope {scope.value}")

    async def sweep(self, now: datetime) -> int:
        """Remove what has expired, some thousands at a time; gives how many there were."""
        key = (table.c.workspace, table.c.scope, table.c.owner, table.c.name)
        old = select(*key).where(table.c.expires_at <= now).limit(_SWEEP_ROWS).with_for_update(skip_locked=True)
        expired = old.cte("expired")
        query = delete(table).where(and_(*(column == expired.c[column.name] for column in key)))
        async with transaction(self._engine) as connection:
            return (await connection.execute(query)).rowcount


def owner_of(scope: VariableScope, workflow: str | None, session: str | None) -> str:
    """Whose a variable of this scope is."""
    return {VariableScope.WORKFLOW: workflow, VariableScope.SESSION: session}.get(scope) or ""


def _owned(scope: VariableScope, owner: str) -> ColumnElement[bool]:
    return and_(table.c.scope == scope.value, table.c.owner == owner)


def _alive(now: datetime) -> ColumnElement[bool]:
    return or_(table.c.expires_at.is_(None), table.c.expires_at > now)


def _cursor(last: StoredVariable) -> str:
    return base64.urlsafe_b64encode(encode([last.variable.scope.value, last.owner, last.variable.name])).decode()


def _place(cursor: str | None) -> tuple[str, str, str] | None:
    if cursor is None:
        return None
    try:
        scope, owner, name = decode(base64.b64decode(cursor.encode(), altchars=b"-_", validate=True))
        if not all(isinstance(one, str) and "\0" not in one for one in (scope, owner, name)):
            raise ValueError
    except (ValueError, TypeError):
        fault = Fault("$.cursor", "cursor", "must be a `next_cursor` that this list gave")
        raise Invalid("the cursor is not valid", [fault]) from None
    return scope, owner, name
