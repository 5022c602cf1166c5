"""A real Redis on loopback, that can be stopped, killed, emptied and started again on its port."""

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.server import free_port

PROGRAM = shutil.which("redis-server")
START_SECONDS = 10.0


class RedisServer:
    """`redis-server` without persistence: a restart finds it empty."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        assert PROGRAM is not None
        arguments = ["--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(
            [PROGRAM, *arguments, "--dir", str(self._directory)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                if self.command("PING") == b"+PONG\r\n":
                    return
            except OSError:
                time.sleep(0.02)
        raise RuntimeError("redis-server does not answer")

    def kill(self) -> None:
        """`kill -9`; all that it held is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def flush(self) -> None:
        assert self.command("FLUSHALL") == b"+OK\r\n"

    def command(self, *words: str) -> bytes:
        """Send a command that has a short answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall((" ".join(words) + "\r\n").encode())
            return connection.recv(1 << 20)


@contextmanager
def running_redis() -> Iterator[RedisServer]:
    """A fresh Redis that leaves nothing behind. Skips the test where the program is missing."""
    if PROGRAM is None:
        pytest.skip("redis-server is not installed (Debian package redis-server)")
    directory = Path(tempfile.mkdtemp(prefix="rds-"))
    server = RedisServer(directory)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(directory, ignore_errors=True)
