"""Cached results and flights on PostgreSQL. Large results lie in the object store, as the journal's payloads do."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from sqlalchemy import RowMapping, bindparam, delete, func, select, text
from sqlalchemy.dialects.postgresql import JSON, insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core.errors import Conflict, NotFound
from core.ids import OwnerId, RunId, Workspace
from infra.postgres.connection import transaction
from infra.postgres.journal import PAYLOAD_INLINE_BYTES, Objects
from infra.postgres.tables import step_cache, step_flights

_EXPIRE_AT_ONCE = 1_000

_LOOK = text(
    "SELECT output::text AS output, output_ref, run_id, created_at FROM step_cache"
    " WHERE workspace = :workspace AND key = :key AND expires_at > :now AND created_at > :since"
)

# A flight passes on when its holder asks again, when its run has ended, or when its owner has been dead for so long
# that whoever took the run over would have asked. A fenced owner gets none: its successor may have it.
_BOARD = text(
    "INSERT INTO step_flights AS f (workspace, key, holder, run_id, owner_id, node, workflow, step_id, started_at)"
    " SELECT :workspace, :key, :holder, :run_id, :owner, :node, :workflow, :step_id, now()"
    " WHERE EXISTS (SELECT 1 FROM owners WHERE id = :owner AND NOT fenced)"
    " ON CONFLICT (workspace, key) DO UPDATE SET holder = excluded.holder, run_id = excluded.run_id,"
    " owner_id = excluded.owner_id, node = excluded.node, workflow = excluded.workflow, step_id = excluded.step_id,"
    " started_at = excluded.started_at"
    " WHERE f.holder = excluded.holder"
    " OR EXISTS (SELECT 1 FROM runs WHERE runs.id = f.run_id AND runs.finished_at IS NOT NULL)"
    " OR (f.started_at < now() - interval '15 s' AND NOT EXISTS"
    "     (SELECT 1 FROM owners WHERE owners.id = f.owner_id AND owners.expires_at > now() - interval '15 s'))"
    " RETURNING true"
)

_DEAD_FLIGHTS = text(
    "DELETE FROM step_flights f WHERE f.started_at < now() - interval '1 min'"
    " AND (EXISTS (SELECT 1 FROM runs WHERE runs.id = f.run_id AND runs.finished_at IS NOT NULL)"
    "      OR NOT EXISTS (SELECT 1 FROM runs WHERE runs.id = f.run_id))"
)


class Ask(Protocol):
    """What is to be known about a call: `engine.cache.ports.CacheAsk`."""

    @property
    def workspace(self) -> Workspace:
        """Whose result it is."""
        ...

    @property
    def key(self) -> str:
        """The hash of what it depends on."""
        ...

    @property
    def node(self) -> str:
        """The node's name."""
        ...

    @property
    def version(self) -> str:
        """The node's version."""
        ...

    @property
    def workflow(self) -> str:
        """The workflow's name."""
        ...

    @property
    def step_id(self) -> str:
        """The step."""
        ...

    @property
    def run_id(self) -> RunId:
        """The run."""
        ...

    @property
    def holder(self) -> str:
        """Who calls."""
        ...

    @property
    def ttl(self) -> float:
        """Seconds for which a result is used."""
        ...


@dataclass(frozen=True, slots=True)
class Stored:
    """See `engine.cache.ports.Stored`."""

    encoded: bytes
    run_id: RunId
    created_at: datetime


@dataclass(frozen=True, slots=True)
class NodeShare:
    """How much of the cache is a node's."""

    node: str
    entries: int
    bytes: int
    oldest: datetime
    newest: datetime


class StepResults:
    """See `engine.cache.ports.CacheStore`. Also what operators may do."""

    def __init__(self, engine: AsyncEngine, objects: Objects) -> None:
        self._engine = engine
        self._objects = objects
        self._single = engine.execution_options(isolation_level="AUTOCOMMIT")

    async def look(self, ask: Ask, now: datetime) -> Stored | None:
        """See `engine.cache.ports.CacheStore.look`."""
        async with transaction(self._single) as connection:
            row = await self._row(connection, ask, now)
        return await self._stored(row)

    async def board(self, ask: Ask, owner: OwnerId, now: datetime) -> tuple[bool, Stored | None]:
        """See `engine.cache.ports.CacheStore.board`."""
        values = {**_place(ask), "holder": ask.holder, "run_id": ask.run_id, "owner": owner}
        values |= {"node": ask.node, "workflow": ask.workflow, "step_id": ask.step_id}
        async with transaction(self._engine) as connection:
            mine = (await connection.execute(_BOARD, values)).first() is not None
            # A new statement, and so a new snapshot: it sees the result of a flight that has just landed.
            row = await self._row(connection, ask, now)
        stored = await self._stored(row)
        if stored is not None and mine:
            await self.abandon(ask, owner)
            mine = False
        return mine, stored

    async def land(self, ask: Ask, owner: OwnerId, encoded: bytes, now: datetime) -> bool:
        """See `engine.cache.ports.CacheStore.land`."""
        large = len(encoded) > PAYLOAD_INLINE_BYTES
        fields = {
            "node": ask.node,
            "node_version": ask.version,
            "workflow": ask.workflow,
            "step_id": ask.step_id,
            "run_id": ask.run_id,
            "output": None if large else bindparam("text", encoded.decode(), _JsonText()),
            "output_ref": await self._objects.put(encoded) if large else None,
            "size": len(encoded),
            "created_at": now,
            "expires_at": now + timedelta(seconds=ask.ttl),
        }
        keep = insert(step_cache).values(**_place(ask), **fields)
        keep = keep.on_conflict_do_update(
            index_elements=[step_cache.c.workspace, step_cache.c.key],
            set_={name: keep.excluded[name] for name in fields},
        )
        async with transaction(self._engine) as connection:
            if (await connection.execute(_end(ask, owner))).rowcount == 0:
                return False
            await connection.execute(keep)
        return True

    async def abandon(self, ask: Ask, owner: OwnerId) -> None:
        """See `engine.cache.ports.CacheStore.abandon`."""
        async with transaction(self._single) as connection:
            await connection.execute(_end(ask, owner))

    async def expire(self, now: datetime) -> int:
        """See `engine.cache.ports.CacheStore.expire`."""
        old = select(step_cache.c.workspace, step_cache.c.key).where(step_cache.c.expires_at <= now)
        old = old.limit(_EXPIRE_AT_ONCE).with_for_update(skip_locked=True)
        place = func.row(step_cache.c.workspace, step_cache.c.key)
        removed = 0
        while True:
            async with transaction(self._engine) as connection:
                count = (await connection.execute(delete(step_cache).where(place.in_(old)))).rowcount
            removed += count
            if count < _EXPIRE_AT_ONCE:
                break
        async with transaction(self._single) as connection:
            await connection.execute(_DEAD_FLIGHTS)
        return removed

    async def clear(self, workspace: Workspace, node: str | None, workflow: str | None, step: str | None) -> int:
        """Remove the results of a node, of a workflow, of a step, or of what fits all that is given; everything when
        nothing is. Calls under way do not store theirs. Returns how many results."""
        removed = 0
        async with transaction(self._engine) as connection:
            # Flights first: one that lands before that has its result removed below.
            for table in (step_flights, step_cache):
                query = delete(table).where(table.c.workspace == workspace)
                for column, value in ((table.c.node, node), (table.c.workflow, workflow), (table.c.step_id, step)):
                    if value is not None:
                        query = query.where(column == value)
                removed = (await connection.execute(query)).rowcount
        return removed

    async def shares(self, workspace: Workspace, now: datetime) -> list[NodeShare]:
        """What is in the cache, by node, the largest first."""
        c = step_cache.c
        size = func.sum(c.size)
        query = (
            select(c.node, func.count(), size, func.min(c.created_at), func.max(c.created_at))
            .where(c.workspace == workspace, c.expires_at > now)
            .group_by(c.node)
            .order_by(size.desc(), c.node)
        )
        async with transaction(self._engine) as connection:
            return [NodeShare(row[0], row[1], int(row[2]), row[3], row[4]) for row in await connection.execute(query)]

    async def _row(self, connection: AsyncConnection, ask: Ask, now: datetime) -> RowMapping | None:
        values = {**_place(ask), "now": now, "since": now - timedelta(seconds=ask.ttl)}
        return (await connection.execute(_LOOK, values)).mappings().first()

    async def _stored(self, row: RowMapping | None) -> Stored | None:
        if row is None:
            return None
        if row["output_ref"] is None:
            return Stored(row["output"].encode(), RunId(row["run_id"]), row["created_at"])
        try:
            encoded = await self._objects.get(row["output_ref"])
        except (NotFound, Conflict):  # older than the retention of objects: as good as never stored
            return None
        return Stored(encoded, RunId(row["run_id"]), row["created_at"])


class _JsonText(JSON):
    """JSON that has its text already."""

    cache_ok = True

    def bind_processor(self, dialect: Any) -> Any:
        """As it is."""
        return None


def _place(ask: Ask) -> dict[str, Any]:
    return {"workspace": ask.workspace, "key": ask.key}


def _end(ask: Ask, owner: OwnerId) -> Any:
    c = step_flights.c
    return delete(step_flights).where(
        c.workspace == ask.workspace, c.key == ask.key, c.holder == ask.holder, c.owner_id == owner
    )
