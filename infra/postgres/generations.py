"""How far each topic has changed: what processes keep in memory stays as fresh as they look here.

A change of routes, say, raises the topic's number in its own transaction. The row lock makes the numbers grow in the
order of the commits, so whoever sees a number sees everything that came with it and before it.
"""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from infra.postgres.connection import transaction

_RAISE = text(
    "INSERT INTO generations (topic, generation) VALUES (:topic, 1)"
    " ON CONFLICT (topic) DO UPDATE SET generation = generations.generation + 1"
)


async def raise_generation(connection: AsyncConnection, topic: str) -> None:
    """Note inside a transaction that it changes a topic."""
    await connection.execute(_RAISE, {"topic": topic})


class Generations:
    """The read side."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def current(self) -> dict[str, int]:
        """The number of each topic that has ever changed. Raises Unavailable."""
        async with transaction(self._engine) as connection:
            rows = await connection.execute(text("SELECT topic, generation FROM generations"))
            return {row.topic: row.generation for row in rows}
