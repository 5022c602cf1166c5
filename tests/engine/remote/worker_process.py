"""A worker as a process of its own.

    python tests/engine/remote/worker_process.py GROUPS CONCURRENCY LEASE

is `reflux worker` with a shorter lease and less grace.
"""

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.server import REFLUX, clean_environment

ROOT = Path(__file__).parents[3]
NODES = Path(__file__).with_name("worker_nodes.py")
SECRET_KEY = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="


class WorkerProcess:
    def __init__(self, dsn: str, broker: str, directory: Path, groups: str = "test", concurrency: int = 8) -> None:
        self.calls = directory / "calls"
        self._log = directory / f"worker-{groups.replace(',', '-')}-{time.monotonic_ns()}.log"
        self._arguments = (groups, str(concurrency))
        self._environment = clean_environment(
            {
                "REFLUX_DATABASE_URL": dsn,
                "REFLUX_BROKER_URL": broker,
                "REFLUX_HOME": str(directory / "home"),
                "REFLUX_SECRET_KEY": SECRET_KEY,
                "REFLUX_NODES": str(NODES),
                "REFLUX_EGRESS_ALLOW": "127.0.0.0/8",
                "TEST_CALLS": str(self.calls),
                "PYTHONPATH": str(ROOT),
            }
        )
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def start(self, lease: float | None = None) -> "WorkerProcess":
        groups, concurrency = self._arguments
        command = [str(REFLUX), "worker", "--nodes", groups, "--concurrency", concurrency]
        if lease is not None:
            command = [sys.executable, __file__, groups, concurrency, str(lease)]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 20
        while "worker is ready" not in self.log:
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)
        return self

    def stop(self) -> int:
        if self.process is None:
            return 0
        process, self.process = self.process, None
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    def noted(self, word: str = "begin") -> list[str]:
        """The idempotency keys of the calls that began (or ended), in order."""
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        return [line.partition(" ")[2] for line in lines if line.startswith(f"{word} ")]


@contextmanager
def work_directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="rmt-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@contextmanager
def several_workers(dsn: str, broker: str, directory: Path) -> Iterator[Callable[..., WorkerProcess]]:
    """Makes workers of one database and broker, which are gone at the end."""
    made: list[WorkerProcess] = []

    def make(groups: str = "test", concurrency: int = 8) -> WorkerProcess:
        made.append(WorkerProcess(dsn, broker, directory, groups, concurrency))
        return made[-1]

    yield make
    codes = [one.stop() for one in made]
    print(*(one.log for one in made))  # shown when the test fails
    assert not any(codes)


def main() -> None:
    from api.worker import run_worker
    from engine.remote.worker import Timing
    from infra.settings import load_settings

    groups, concurrency, lease = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    timing = Timing(lease=lease, renew=lease / 4, tick=lease / 4, grace=lease / 4)
    run_worker(load_settings(), groups.split(","), concurrency, timing)


if __name__ == "__main__":
    main()
