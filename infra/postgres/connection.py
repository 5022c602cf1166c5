"""Engine and transactions: one way to connect, one way to tell that the database is away."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import orjson
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from core.errors import Unavailable

_CONNECT_SECONDS = 10.0
_AWAY = (
    OSError,
    TimeoutError,
    PoolTimeout,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the next use of a connection that the server has ended while nobody used it
    asyncpg.exceptions.OperatorInterventionError,
    asyncpg.exceptions.InsufficientResourcesError,
)


def create_engine(dsn: str, pool_size: int = 5) -> AsyncEngine:
    """A pooled engine for a DSN in asyncpg's own form (`postgresql://…`, TLS and socket options included)."""

    async def connect(*_: Any, **__: Any) -> Any:
        return await asyncpg.connect(dsn, timeout=_CONNECT_SECONDS)

    return create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connect,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=_CONNECT_SECONDS,
        hide_parameters=True,  # values never reach a log or an error's text
        json_serializer=_dump,
        json_deserializer=orjson.loads,
    )


@asynccontextmanager
async def transaction(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection inside one transaction: committed at the end of the block, rolled back when it raises.

    Raises:
        Unavailable: the database cannot be reached, or broke the connection off.
    """
    try:
        async with engine.begin() as connection:
            yield connection
    except DBAPIError as error:
        if error.connection_invalidated or _is_away(error):
            raise Unavailable("the database does not answer; try again in a moment") from error
        raise
    except _AWAY as error:
        raise Unavailable("the database does not answer; try again in a moment") from error


def _is_away(error: DBAPIError) -> bool:
    cause = error.orig.__cause__ if error.orig is not None else None
    return isinstance(cause, _AWAY)


def _dump(value: Any) -> str:
    return orjson.dumps(value).decode()
