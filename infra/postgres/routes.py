"""Routes with all their revisions. Nothing is ever changed: a change is a new revision."""

from typing import Any

from sqlalchemy import Row, Select, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core.clock import Clock
from core.errors import Conflict, Fault, Invalid, NotFound
from core.ids import Workspace
from core.route import Route, StoredRoute
from infra.postgres.connection import transaction
from infra.postgres.generations import raise_generation
from infra.postgres.page import Page, check_limit
from infra.postgres.tables import breakers, routes

TOPIC = "routes"
_BREAKERS = "breakers"

_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")


class Routes:
    """The table of routes.

    Raises (every call):
        Unavailable: the database does not answer.
    """

    def __init__(self, engine: AsyncEngine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    async def load(self) -> list[StoredRoute]:
        """The routes in force, of all workspaces."""
        query = select(routes).where(routes.c.current, routes.c.route.is_not(None))
        async with transaction(self._engine) as connection:
            return [_stored(row) for row in await connection.execute(query)]

    async def latest(self, workspace: Workspace, node: str) -> StoredRoute | None:
        """The newest revision, which may say that there is no route; None when there never was one."""
        query = _of(workspace, node).where(routes.c.current)
        async with transaction(self._engine) as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else _stored(row)

    async def get(self, workspace: Workspace, node: str, revision: int | None = None) -> StoredRoute:
        """A revision, or the route in force. Raises NotFound."""
        if revision is None:
            found = await self.latest(workspace, node)
            if found is None or found.route is None:
                raise NotFound(f"the node {node} has no route")
            return found
        query = _of(workspace, node).where(routes.c.revision == revision)
        async with transaction(self._engine) as connection:
            row = (await connection.execute(query)).one_or_none()
        if row is None:
            raise NotFound(f"the route of {node} has no revision {revision}")
        return _stored(row)

    async def put(
        self,
        workspace: Workspace,
        node: str,
        route: Route | None,
        created_by: str,
        *,
        expected: int | None = None,
        reverted_to: int | None = None,
    ) -> StoredRoute:
        """Make a route the one in force, as a new revision; None takes the route away.

        A route equal to the one in force changes nothing: a new revision would draw all units anew.

        Args:
            expected: the revision that the change was made from; 0 when there was none.

        Raises:
            Conflict: somebody else has changed the route since.
        """
        async with transaction(self._engine) as connection:
            await connection.execute(_LOCK, {"name": f"route/{workspace}/{node}"})
            row = (await connection.execute(_of(workspace, node).where(routes.c.current))).one_or_none()
            found = None if row is None else _stored(row)
            revision = 0 if found is None else found.revision
            if expected is not None and expected != revision:
                raise Conflict(f"the route of {node} is at revision {revision}, not {expected}; look at it again")
            if found is not None and found.route == route:
                return found
            made = StoredRoute(workspace, node, revision + 1, route, self._clock.now(), created_by, reverted_to)
            await self._append(connection, made)
            return made

    async def revisions(
        self, workspace: Workspace, node: str, *, limit: int = 20, cursor: str | None = None
    ) -> Page[StoredRoute]:
        """All revisions, the newest first. Raises Invalid for a bad limit or cursor."""
        check_limit(limit)
        query = _of(workspace, node).order_by(routes.c.revision.desc()).limit(limit + 1)
        if cursor is not None:
            query = query.where(routes.c.revision < _revision(cursor))
        async with transaction(self._engine) as connection:
            rows = (await connection.execute(query)).all()
        items = tuple(_stored(row) for row in rows[:limit])
        return Page(items, str(items[-1].revision) if len(rows) > limit else None)

    async def _append(self, connection: AsyncConnection, made: StoredRoute) -> None:
        own = (routes.c.workspace == made.workspace, routes.c.node == made.node)
        await connection.execute(update(routes).where(*own, routes.c.current).values(current=False))
        await connection.execute(
            routes.insert().values(
                workspace=made.workspace,
                node=made.node,
                revision=made.revision,
                route=None if made.route is None else made.route.model_dump(mode="json", exclude_unset=True),
                reverted_to=made.reverted_to,
                current=True,
                created_at=made.created_at,
                created_by=made.created_by,
            )
        )
        if made.route is None or made.route.breaker is None:
            gone = breakers.delete().where(breakers.c.workspace == made.workspace, breakers.c.node == made.node)
            if (await connection.execute(gone)).rowcount:
                await raise_generation(connection, _BREAKERS)
        await raise_generation(connection, TOPIC)


def _of(workspace: Workspace, node: str) -> Select[Any]:
    return select(routes).where(routes.c.workspace == workspace, routes.c.node == node)


def _revision(cursor: str) -> int:
    if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 9:
        fault = Fault("$.cursor", "cursor", "must be a `next_cursor` that this list gave")
        raise Invalid("the cursor is not valid", [fault])
    return int(cursor)


def _stored(row: Row[Any]) -> StoredRoute:
    route = None if row.route is None else Route.model_validate(row.route)
    return StoredRoute(row.workspace, row.node, row.revision, route, row.created_at, row.created_by, row.reverted_to)
