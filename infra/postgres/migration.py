"""Brings the schema to the version that this code expects."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import AsyncConnection

from infra.postgres.connection import create_engine, transaction
from infra.postgres.migrations import HEAD

if TYPE_CHECKING:
    from alembic.config import Config

_LOCK = 0x5EF1_0C7A
"""Of all processes that start at once, one migrates; the others wait here and find nothing to do."""


async def migrate(dsn: str) -> None:
    """Upgrade to the newest revision, all or nothing. Safe when several processes do it at once.

    Raises:
        Unavailable: the database cannot be reached.
    """

    def upgrade(config: "Config") -> None:
        from alembic import command

        command.upgrade(config, "head")

    await _run(dsn, upgrade, unless=HEAD)


async def downgrade(dsn: str, revision: str) -> None:
    """Go back to an older revision (`base` for an empty schema). Data that has no place there is lost.

    Raises:
        Unavailable: the database cannot be reached.
    """

    def back(config: "Config") -> None:
        from alembic import command

        command.downgrade(config, revision)

    await _run(dsn, back, unless=None)


async def _run(dsn: str, step: Callable[["Config"], None], unless: str | None) -> None:
    engine = create_engine(dsn, pool_size=1)
    try:
        async with transaction(engine) as connection:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            if unless is None or await _revision(connection) != unless:
                await connection.run_sync(_with_config, step)
    finally:
        await engine.dispose()


async def _revision(connection: AsyncConnection) -> str | None:
    if not await connection.run_sync(lambda sync: inspect(sync).has_table("alembic_version")):
        return None
    found: str | None = await connection.scalar(text("SELECT version_num FROM alembic_version"))
    return found


def _with_config(connection: Connection, step: Callable[["Config"], None]) -> None:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    step(config)
