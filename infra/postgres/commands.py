"""Commands for runs that another process drives. They are few: people make them."""

import uuid
from collections.abc import Mapping
from typing import Any

import orjson
from sqlalchemy import text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from core.clock import Clock
from core.errors import Conflict
from core.ids import OwnerId, RunId
from core.json import JsonValue
from infra.postgres.connection import transaction
from infra.postgres.generations import raise_generation
from infra.postgres.tables import run_commands

TOPIC = "commands"
"""What a new command raises the generation of."""

_WAITING = text(
    "SELECT c.run_id, c.command FROM run_commands c JOIN runs r ON r.id = c.run_id"
    " WHERE c.done_at IS NULL AND r.owner_id = :owner AND r.finished_at IS NULL ORDER BY c.id LIMIT :limit"
)
_TOO_LATE = text(
    "UPDATE run_commands c SET done_at = :at, refusal = CAST(:refusal AS json) FROM runs r"
    " WHERE r.id = c.run_id AND c.done_at IS NULL AND r.owner_id = :owner AND r.finished_at IS NOT NULL"
)
_OVER = orjson.dumps({"status": Conflict.status, "detail": "the run has ended already"}).decode()
_SETTLE = text("UPDATE run_commands SET done_at = :at, refusal = CAST(:refusal AS json) WHERE id = :id")
_ANSWER = text("SELECT done_at, refusal FROM run_commands WHERE id = :id")
_EXPIRE = text("DELETE FROM run_commands WHERE created_at < now() - interval '1 day'")


class RunCommands:
    """The table of commands; see `engine.ports.Commands`."""

    def __init__(self, engine: AsyncEngine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    async def send(self, run_id: RunId, command_id: uuid.UUID, command: Mapping[str, JsonValue]) -> None:
        """See `engine.ports.Commands.send`."""
        statement = insert(run_commands).values(
            id=command_id, run_id=run_id, command=dict(command), created_at=self._clock.now()
        )
        async with transaction(self._engine) as connection:
            await connection.execute(statement.on_conflict_do_nothing())
            await raise_generation(connection, TOPIC)

    async def waiting(self, owner: OwnerId, limit: int) -> list[tuple[RunId, Any]]:
        """See `engine.ports.Commands.waiting`."""
        async with transaction(self._engine) as connection:
            await connection.execute(_TOO_LATE, {"owner": owner, "at": self._clock.now(), "refusal": _OVER})
            rows = await connection.execute(_WAITING, {"owner": owner, "limit": limit})
            return [(RunId(row.run_id), row.command) for row in rows]

    async def settle(self, command_id: uuid.UUID, refusal: Mapping[str, JsonValue] | None) -> None:
        """See `engine.ports.Commands.settle`."""
        told = None if refusal is None else orjson.dumps(refusal).decode()
        async with transaction(self._engine) as connection:
            await connection.execute(_SETTLE, {"id": command_id, "at": self._clock.now(), "refusal": told})

    async def answer(self, command_id: uuid.UUID) -> tuple[bool, Any]:
        """See `engine.ports.Commands.answer`."""
        async with transaction(self._engine) as connection:
            row = (await connection.execute(_ANSWER, {"id": command_id})).one_or_none()
        return (False, None) if row is None else (row.done_at is not None, row.refusal)

    async def expire(self) -> None:
        """Delete what is older than a day."""
        async with transaction(self._engine) as connection:
            await connection.execute(_EXPIRE)
