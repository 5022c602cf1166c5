"""Limits of nodes, as operators set them, and how all limits are used now."""

from sqlalchemy import delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from core.clock import Clock
from core.errors import NotFound
from core.ids import Workspace
from core.limit import Limit, NodeLimit, ScopeUse
from infra.postgres.connection import transaction
from infra.postgres.generations import raise_generation
from infra.postgres.slots import limit_json, limit_of
from infra.postgres.tables import limit_scopes, node_limits

TOPIC = "limits"
_MOST_USES = 1_000

_USES = text(
    "SELECT s.scope, l.max, l.calls, l.per, l.burst, count(*) FILTER (WHERE s.granted_at IS NOT NULL) AS in_use,"
    " count(*) FILTER (WHERE s.granted_at IS NULL) AS waiting, min(r.workflow) AS workflow"
    " FROM slots s JOIN limit_scopes l USING (scope) JOIN runs r ON r.id = s.run_id"
    " WHERE r.workspace = :workspace AND r.finished_at IS NULL"
    " GROUP BY s.scope, l.max, l.calls, l.per, l.burst ORDER BY waiting DESC, in_use DESC, s.scope LIMIT :most"
)


class Limits:
    """The table of node limits; see `engine.limits.ports.NodeLimitStore`.

    What is set is written to the scope too, so that it holds for those who wait there already.
    """

    def __init__(self, engine: AsyncEngine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    async def all(self) -> list[NodeLimit]:
        """All of all workspaces."""
        async with transaction(self._engine) as connection:
            rows = await connection.execute(select(node_limits).order_by(node_limits.c.workspace, node_limits.c.node))
            return [_node_limit(dict(row._mapping)) for row in rows]

    async def get(self, workspace: Workspace, node: str) -> NodeLimit:
        """The limit of a node. Raises NotFound when it has none."""
        query = select(node_limits).where(node_limits.c.workspace == workspace, node_limits.c.node == node)
        async with transaction(self._engine) as connection:
            row = (await connection.execute(query)).mappings().first()
        if row is None:
            raise NotFound(f"the node {node!r} has no limit")
        return _node_limit(dict(row))

    async def put(self, limit: NodeLimit, by: str) -> None:
        """Set a node's limit. Calls under way when it is set for the first time do not count."""
        now = self._clock.now()
        numbers = limit_json(Limit(limit.concurrency, limit.rate))
        columns = {name: numbers[name] for name in ("calls", "per", "burst")}
        scope = {**numbers, "managed": True}
        tokens = numbers["burst"] or 0
        fields = {"concurrency": numbers["max"], **columns, "updated_at": now, "updated_by": by}
        async with transaction(self._engine) as connection:
            # The scope's row first, as everywhere: it is what a grant pass locks.
            await connection.execute(
                insert(limit_scopes)
                .values(scope=limit.scope, **scope, tokens=tokens, refilled_at=func.now(), grants=_FIRST_GRANT)
                .on_conflict_do_update(index_elements=[limit_scopes.c.scope], set_=scope)
            )
            await connection.execute(
                insert(node_limits)
                .values(workspace=limit.workspace, node=limit.node, **fields)
                .on_conflict_do_update(index_elements=[node_limits.c.workspace, node_limits.c.node], set_=fields)
            )
            await raise_generation(connection, TOPIC)

    async def delete(self, workspace: Workspace, node: str) -> None:
        """Take a node's limit away; whoever waits for it goes on. Raises NotFound when it has none."""
        scope = NodeLimit(workspace, node).scope
        nothing = {**limit_json(Limit()), "managed": True}
        async with transaction(self._engine) as connection:
            await connection.execute(update(limit_scopes).where(limit_scopes.c.scope == scope).values(**nothing))
            gone = await connection.execute(
                delete(node_limits).where(node_limits.c.workspace == workspace, node_limits.c.node == node)
            )
            if gone.rowcount == 0:
                raise NotFound(f"the node {node!r} has no limit")
            await raise_generation(connection, TOPIC)

    async def uses(self, workspace: Workspace) -> list[ScopeUse]:
        """What is held or waited for now, where most wait first."""
        async with transaction(self._engine) as connection:
            rows = await connection.execute(_USES, {"workspace": workspace, "most": _MOST_USES})
            return [
                ScopeUse(row["scope"], limit_of(dict(row)), row["in_use"], row["waiting"], row["workflow"])
                for row in rows.mappings()
            ]


_FIRST_GRANT = text("(extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
"""Above all that a scope of that name, long forgotten, has ever counted."""


def _node_limit(row: dict[str, object]) -> NodeLimit:
    limit = limit_of({**row, "max": row["concurrency"]})
    return NodeLimit(Workspace(str(row["workspace"])), str(row["node"]), limit.max, limit.rate)
