"""Open breakers, shared by all processes. All times are the database's."""

import uuid
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from core.route import Opening
from infra.postgres.connection import transaction
from infra.postgres.generations import raise_generation

TOPIC = "breakers"

_LOAD = text(
    "SELECT workspace, node, version, cooldown, until, calls, failures,"
    " extract(epoch FROM until - now())::float8 AS remaining FROM breakers"
)
_OPEN = text(
    "INSERT INTO breakers (workspace, node, version, opened_at, until, cooldown, calls, failures)"
    " VALUES (:workspace, :node, :version, now(), now() + make_interval(secs => :cooldown), :cooldown, :calls,"
    " :failures)"
    " ON CONFLICT (workspace, node, version) DO UPDATE SET until = excluded.until, cooldown = excluded.cooldown,"
    " probe = NULL, probe_until = NULL WHERE :again"
)
_CLOSE = text("DELETE FROM breakers WHERE workspace = :workspace AND node = :node AND version = :version")
_CLAIM = text(
    "UPDATE breakers SET probe = :claim, probe_until = now() + make_interval(secs => :lease)"
    " WHERE workspace = :workspace AND node = :node AND version = :version"
    " AND (probe = :claim OR ((:early OR until <= now()) AND (probe IS NULL OR probe_until < now())))"
)
_RELEASE = text(
    "UPDATE breakers SET probe = NULL, probe_until = NULL"
    " WHERE workspace = :workspace AND node = :node AND version = :version AND probe = :claim"
)


class Breakers:
    """The table of open breakers. A breaker that is not there is closed.

    Raises (every call):
        Unavailable: the database does not answer.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def load(self) -> list[Opening]:
        """All open breakers."""
        async with transaction(self._engine) as connection:
            return [Opening(**row._mapping) for row in await connection.execute(_LOAD)]

    async def open(
        self, workspace: str, node: str, version: str, cooldown: float, calls: int, failures: int, *, again: bool
    ) -> None:
        """Open one for `cooldown` seconds from now. One that is open stays as it is, unless `again`."""
        values = {"cooldown": cooldown, "calls": calls, "failures": failures, "again": again}
        await self._change(_OPEN, workspace, node, version, values)

    async def close(self, workspace: str, node: str, version: str) -> None:
        """Close one."""
        await self._change(_CLOSE, workspace, node, version, {})

    async def claim_probe(
        self, workspace: str, node: str, version: str, claim: uuid.UUID, lease: float, *, early: bool
    ) -> bool:
        """Get the right to the one call that an open breaker lets through, or prolong it. Of all that ask at once,
        one gets it: the row's lock makes each see what the one before it did.
        """
        values = {"claim": claim, "lease": lease, "early": early}
        async with transaction(self._engine) as connection:
            found = await connection.execute(_CLAIM, _values(workspace, node, version, values))
            return found.rowcount == 1

    async def release_probe(self, workspace: str, node: str, version: str, claim: uuid.UUID) -> None:
        """Give the right back."""
        async with transaction(self._engine) as connection:
            await connection.execute(_RELEASE, _values(workspace, node, version, {"claim": claim}))

    async def _change(self, statement: Any, workspace: str, node: str, version: str, values: dict[str, Any]) -> None:
        async with transaction(self._engine) as connection:
            if (await connection.execute(statement, _values(workspace, node, version, values))).rowcount:
                await raise_generation(connection, TOPIC)


def _values(workspace: str, node: str, version: str, more: dict[str, Any]) -> dict[str, Any]:
    return {"workspace": workspace, "node": node, "version": version, **more}
