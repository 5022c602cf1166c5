"""A distributed deployment on this machine: servers and workers as processes, on one database and one broker."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bench.chaos.called import free_port
from bench.chaos.server import RefluxServer

ROOT = Path(__file__).parents[2]
_WORKER_NODES = ROOT / "tests/engine/remote/worker_nodes.py"
_USER_NODES = Path(__file__).with_name("user_nodes.py")
_SHORT_LEASE = ROOT / "tests/engine/remote/worker_process.py"
_SECRET_KEY = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
_START_SECONDS = 30.0


class Worker:
    """`reflux worker`, or the same with a shorter lease."""

    def __init__(self, groups: str, concurrency: int, lease: float | None, environment: Mapping[str, str], log: Path):
        self._command = [str(Path(sys.executable).with_name("reflux")), "worker"]
        self._command += ["--nodes", groups, "--concurrency", str(concurrency)]
        if lease is not None:
            self._command = [sys.executable, str(_SHORT_LEASE), groups, str(concurrency), str(lease)]
        self._environment = {**os.environ, **environment}
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def start(self, ready: bool = True) -> "Worker":
        """Start a life; with `ready`, returns when it takes tasks."""
        lives = self.log.count("worker is ready") if self._log.exists() else 0
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, env=self._environment)
        deadline = time.monotonic() + _START_SECONDS
        while ready and self.log.count("worker is ready") == lives:
            assert self._process.poll() is None, self.log[-3000:]
            assert time.monotonic() < deadline, self.log[-3000:]
            time.sleep(0.02)
        return self

    def kill(self) -> None:
        """`kill -9`."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Cluster:
    """Processes that share database, broker, secret key and objects. `notes` is where the nodes of `test.*` write."""

    def __init__(self, base: Path, dsn: str, broker: str) -> None:
        self._base = base
        self.notes = base / "notes"
        self.broker = broker
        self._shared = {
            "REFLUX_DATABASE_URL": dsn,
            "REFLUX_BROKER_URL": broker,
            "REFLUX_OBJECT_STORE_URL": f"file://{base}/objects",
            **self.embedded(),
        }
        (base / "objects").mkdir()
        self._servers: list[RefluxServer] = []
        self._workers: list[Worker] = []

    def embedded(self) -> dict[str, str]:
        """What a server needs that performs the same workflows by itself."""
        return {
            "REFLUX_SECRET_KEY": _SECRET_KEY,
            "REFLUX_NODES": f"{_WORKER_NODES},{_USER_NODES}",
            "REFLUX_EGRESS_ALLOW": "127.0.0.0/8",
            "TEST_CALLS": str(self.notes),
            "PYTHONPATH": str(ROOT),
        }

    def server(self, name: str, **without: None) -> RefluxServer:
        """A server that is started already. `without`: variables that it shall not have."""
        directory = self._base / name
        directory.mkdir(mode=0o755)
        environment = {key: value for key, value in self._shared.items() if key not in without}
        self._servers.append(RefluxServer(directory / "h", free_port(), environment))
        self._servers[-1].start()
        return self._servers[-1]

    def worker(self, groups: str, concurrency: int = 8, lease: float | None = None) -> Worker:
        """A worker that is not started yet."""
        log = self._base / f"worker-{len(self._workers)}.log"
        environment = {**self._shared, "REFLUX_HOME": str(self._base / "worker")}
        self._workers.append(Worker(groups, concurrency, lease, environment, log))
        return self._workers[-1]

    def noted(self, word: str = "begin") -> list[str]:
        """The idempotency keys of the calls of `test.*` that began (`end`: ended, `stop`: were cancelled), in order."""
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        return [line.partition(" ")[2] for line in lines if line.startswith(f"{word} ")]

    def end(self) -> None:
        """Leave nothing behind."""
        for worker in self._workers:
            worker.kill()
        for server in self._servers:
            server.end()


@contextmanager
def running_cluster(base: Path, dsn: str, broker: str) -> Iterator[Cluster]:
    cluster = Cluster(base, dsn, broker)
    try:
        yield cluster
    finally:
        cluster.end()
        for log in sorted(base.glob("worker-*.log")):
            print(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}")  # shown when the test fails
