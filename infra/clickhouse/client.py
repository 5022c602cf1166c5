"""Where ClickHouse is, and how it is called without holding the event loop.

The driver blocks, so its calls run in threads: one for writes, which gives them an order, and a few for reads. Each
has its own driver client because the embedded engine serializes the calls of one client. The embedded engine
is one for each process and directory; its clients are handles to it, and it locks its directory.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypeVar
from urllib.parse import unquote, urlsplit

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError, Error, OperationalError, ProgrammingError
from clickhouse_connect.driver.httpclient import HttpClient
from urllib3.exceptions import HTTPError

from core.errors import Unavailable

logger = logging.getLogger(__name__)
T = TypeVar("T")

DATABASE = "reflux"
"""Used when the URL names none, and always when embedded."""

_MIB = 1024 * 1024

# A table or a database that is missing although the schema was applied was dropped or restored under us; the rest of
# the list is overload, lack of space, or lack of rights: all of it can pass without any change of ours.
_TRANSIENT_CODES = frozenset({60, 81, 159, 160, 164, 173, 202, 203, 209, 210, 236, 241, 242, 243, 252, 497, 516, 999})
_REFUSED_CODES = frozenset({192, 193, 194, 497, 516})


@dataclass(frozen=True, slots=True)
class Directory:
    """The embedded engine, on a directory of this machine."""

    path: Path

    def __str__(self) -> str:
        return f"embedded ClickHouse in {self.path}"


@dataclass(frozen=True, slots=True)
class Server:
    """A ClickHouse server. Its text form leaves the credentials out."""

    scheme: str
    host: str
    port: int
    user: str
    database: str
    password: str = field(repr=False)

    def __str__(self) -> str:
        return f"ClickHouse at {self.scheme}://{self.host}:{self.port}/{self.database}"


Target: TypeAlias = Directory | Server


def parse_target(text: str | Path) -> Target:
    """A server for `http(s)://user:password@host:port/database`, otherwise a directory.

    Raises:
        ValueError: another URL scheme, no host, or a bad port. The message never repeats the URL (a password).
    """
    if isinstance(text, Path) or "://" not in text:
        return Directory(Path(text))
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError("the ClickHouse URL is malformed") from None
    if parts.scheme not in ("http", "https"):
        raise ValueError("the ClickHouse URL must begin with http:// or https://")
    if not parts.hostname or parts.query or parts.fragment:
        raise ValueError("the ClickHouse URL must have the form http(s)://user:password@host:port/database")
    return Server(
        scheme=parts.scheme,
        host=parts.hostname,
        port=port or (8443 if parts.scheme == "https" else 8123),
        user=unquote(parts.username or "default"),
        database=unquote(parts.path.strip("/")) or DATABASE,
        password=unquote(parts.password or ""),
    )


@dataclass(frozen=True, slots=True)
class Limits:
    """How much ClickHouse may take.

    Attributes:
        query_threads: reads at once; also the threads that one embedded query may use.
        memory_bytes: of the embedded engine.
        connect_s: seconds to reach a server.
        read_s: seconds that a server may be silent; also the time that one query may run, embedded or not.
    """

    query_threads: int = 2
    memory_bytes: int = 1536 * _MIB
    connect_s: int = 3
    read_s: int = 20


class ClickHouse:
    """Runs calls against one ClickHouse. Connects at the first call, and again after every failure to connect.

    Raises (every call):
        Unavailable: it does not answer, is overloaded, or refuses the credentials. A write may have happened.
    """

    def __init__(self, target: Target, limits: Limits | None = None) -> None:
        self.target = target
        self._limits = limits or Limits()
        self._local = threading.local()
        self._lock = threading.Lock()
        self._clients: list[Client] = []
        self._writes = ThreadPoolExecutor(1, thread_name_prefix="clickhouse-write")
        self._reads = ThreadPoolExecutor(self._limits.query_threads, thread_name_prefix="clickhouse-read")

    async def write(self, job: Callable[[Client], T]) -> T:
        """Run `job` in the one write thread: jobs run one after another, in the order of the calls."""
        return await asyncio.get_running_loop().run_in_executor(self._writes, self._run, job)

    async def read(self, job: Callable[[Client], T]) -> T:
        """Run `job` in a read thread."""
        return await asyncio.get_running_loop().run_in_executor(self._reads, self._run, job)

    async def aclose(self) -> None:
        """Let running calls finish, drop the waiting ones, and close. The directory is free for others then."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        for pool in (self._writes, self._reads):
            pool.shutdown(wait=True, cancel_futures=True)
        while self._clients:
            self._clients.pop().close()

    def _run(self, job: Callable[[Client], T]) -> T:
        try:
            return job(self._client())
        except (Error, HTTPError, OSError) as error:
            raise self._told(error) from error

    def _told(self, error: Exception) -> Exception:
        """What a caller is told: `Unavailable` for what may pass, the error itself for what is our fault."""
        code = error.code if isinstance(error, Error) else None
        if code in _REFUSED_CODES:
            return Unavailable(f"{self.target} refuses the credentials")
        if code in _TRANSIENT_CODES:
            return Unavailable(f"{self.target} cannot do this now (code {code})")
        # Without a code it was not ClickHouse that spoke: the network, a proxy, or the engine that could not be opened.
        silent = code is None and type(error) in (DatabaseError, OperationalError)
        if silent or isinstance(error, (OperationalError, HTTPError, OSError)):
            return Unavailable(f"{self.target} does not answer")
        return error

    def _client(self) -> Client:
        client: Client | None = getattr(self._local, "client", None)
        if client is None:
            client = self._connect()
            self._local.client = client
            with self._lock:
                self._clients.append(client)
        return client

    def _connect(self) -> Client:
        if isinstance(self.target, Directory):
            with self._lock:  # two first handles at once race for the engine's start
                return self._embedded(self.target)
        return self._remote(self.target)

    def _embedded(self, target: Directory) -> Client:
        target.path.mkdir(parents=True, exist_ok=True)
        limits = self._limits
        options: dict[str, Any] = {
            "max_server_memory_usage": limits.memory_bytes,
            # Defaults are made for servers of hundreds of gigabytes; here they would let idle memory creep up.
            "mark_cache_size": 32 * _MIB,
            "primary_index_cache_size": 32 * _MIB,
            "index_mark_cache_size": 8 * _MIB,
            "compiled_expression_cache_size": 8 * _MIB,
            "mmap_cache_size": 64,
            "background_schedule_pool_size": 1,
            "background_pool_size": 1,
            "max_thread_pool_size": 64,
            "max_thread_pool_free_size": 4,
            "max_io_thread_pool_size": 4,
            "max_io_thread_pool_free_size": 0,
        }
        try:
            client = clickhouse_connect.get_client(
                interface="chdb",
                path=str(target.path),
                tz_mode="aware",
                chdb_options=options,
                settings={
                    "max_threads": limits.query_threads,
                    "max_execution_time": limits.read_s,
                    # Code generated for a query is worth its memory only when the query is repeated for long.
                    "compile_expressions": 0,
                    "compile_aggregate_expressions": 0,
                    "compile_sort_description": 0,
                },
            )
        except ProgrammingError as error:
            logger.warning("the embedded ClickHouse cannot be opened: %s", error)
            raise Unavailable(
                f"{target} cannot be opened: another process uses it, or this one has opened another directory"
            ) from error
        return self._enter(client, DATABASE)

    def _remote(self, target: Server) -> Client:
        client = clickhouse_connect.get_client(
            interface=target.scheme,
            host=target.host,
            port=target.port,
            username=target.user,
            password=target.password,
            connect_timeout=self._limits.connect_s,
            send_receive_timeout=self._limits.read_s,
            # Without a session the server lets calls of one client overlap; nothing here needs one.
            autogenerate_session_id=False,
            dedicated_pool=True,
            query_retries=0,
            tz_mode="aware",
            settings={"max_execution_time": self._limits.read_s},
        )
        if isinstance(client, HttpClient):
            client.http_retries = 0  # whoever calls decides about another attempt; a hidden one doubles every time-out
        return self._enter(client, target.database)

    def _enter(self, client: Client, database: str) -> Client:
        try:
            known = client.query(
                "SELECT count() FROM system.databases WHERE name = {name:String}", parameters={"name": database}
            )
            if not known.result_rows[0][0]:
                client.command(f"CREATE DATABASE IF NOT EXISTS `{database.replace('`', '')}`")
            client.database = database
        except BaseException:
            client.close()
            raise
        return client
