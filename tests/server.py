"""A REFLUX server as a process of its own, for tests of everything that is seen from outside.

The home must have a short path: PostgreSQL's socket lies below it, and a socket's path has at most 107 bytes.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

KEY = "rfx_test_key_for_the_tests_of_reflux_0001"
REFLUX = Path(sys.executable).with_name("reflux")
READY_SECONDS = 60.0
STOP_SECONDS = 20.0


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without any REFLUX_ variable, and with those of `extra`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("REFLUX_")}
    return {**kept, **(extra or {})}


class RunningServer:
    """`reflux up` with a home, a port and further REFLUX_ variables.

    Calls to 127.0.0.0/8 are allowed and the first key is `KEY`, unless `env` says otherwise; an empty value unsets.
    """

    def __init__(self, home: Path, port: int | None = None, env: Mapping[str, str] | None = None) -> None:
        self.home = home
        self.port = port or free_port()
        self.env = {"REFLUX_API_KEY": KEY, "REFLUX_EGRESS_ALLOW": "127.0.0.0/8", **(env or {})}
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def key(self) -> str:
        return self.env["REFLUX_API_KEY"]

    @property
    def log(self) -> str:
        """All that the server wrote so far, over all its starts."""
        path = self._log_path()
        return path.read_text() if path.exists() else ""

    def start(self, wait: bool = True) -> "RunningServer":
        """Start it, and wait until it is ready. Raises RuntimeError with its log when it does not get so far."""
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._log_path().open("ab") as log:
            self.process = subprocess.Popen(
                [str(REFLUX), "up", "--home", str(self.home), "--port", str(self.port)],
                env=clean_environment(self.env),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, seconds: float = READY_SECONDS) -> None:
        assert self.process is not None
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}:\n{self.log[-4000:]}")
            try:
                if httpx.get(f"{self.url}/readyz", timeout=2, trust_env=False).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise RuntimeError(f"the server was not ready within {seconds} s:\n{self.log[-4000:]}")

    def stop(self) -> int:
        """Stop it by SIGTERM and give back its exit code. Kills it when it does not stop."""
        if self.process is None:
            return 0
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self.process = None

    def kill(self) -> None:
        """`kill -9`. The embedded PostgreSQL lives on; `start` and `stop` it again, or `stop_postgres`."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    def stop_postgres(self) -> None:
        """Stop an embedded PostgreSQL that outlived its server, by its own pid file."""
        for pid_file in self.home.rglob("postmaster.pid"):
            pid = int(pid_file.read_text().splitlines()[0])
            try:
                os.kill(pid, signal.SIGINT)
            except ProcessLookupError:
                continue
            deadline = time.monotonic() + STOP_SECONDS
            while pid_file.exists() and time.monotonic() < deadline:
                time.sleep(0.05)

    def client(self, key: str | None = None, timeout: float = 30.0) -> httpx.Client:
        """A client with the admin key, or another one; an empty text sends none."""
        shown = self.key if key is None else key
        headers = {"Authorization": f"Bearer {shown}"} if shown else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=timeout, trust_env=False)

    def _log_path(self) -> Path:
        return self.home.with_name(self.home.name + ".log")


def short_home() -> Path:
    """A path for a home that does not exist yet, short enough for a socket below it."""
    return Path(tempfile.mkdtemp(prefix="rfx-")) / "h"


@contextmanager
def running_server(env: Mapping[str, str] | None = None) -> Iterator[RunningServer]:
    """A fresh server on a free port, that leaves nothing behind."""
    server = RunningServer(short_home(), env=env)
    try:
        yield server.start()
    finally:
        try:
            server.stop()
        finally:
            server.stop_postgres()
            shutil.rmtree(server.home.parent, ignore_errors=True)
