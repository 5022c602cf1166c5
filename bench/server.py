"""Starts the service, and whatever else is measured, as processes of their own."""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx


def free_port() -> int:
    """A port that nothing listens on at this moment."""
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def slow_server(port: int, milliseconds: int) -> Iterator[None]:
    """A server that answers after so long."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.slow_server", str(port), str(milliseconds)], stdout=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


class Service:
    """One REFLUX server with everything embedded."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = free_port()
        self.key = "rfx_" + secrets.token_urlsafe(32)
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}/api/v1", headers={"Authorization": f"Bearer {self.key}"}, timeout=60
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Start it; returns the seconds until it was ready."""
        environment = {
            **os.environ,
            "REFLUX_HOME": str(self.home),
            "REFLUX_PORT": str(self.port),
            "REFLUX_API_KEY": self.key,
            "REFLUX_EGRESS_ALLOW": "127.0.0.0/8",
            "REFLUX_NODES": "bench.nodes",
            "REFLUX_LOG_LEVEL": "warning",
        }
        started = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from api.cli.main import app; app()", "up"],
            env=environment,
            stdout=subprocess.DEVNULL,
        )
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{self.port}/readyz").status_code == 200:
                    return time.perf_counter() - started
            except httpx.TransportError:
                pass
            if self._process.poll() is not None or time.perf_counter() - started > 60:
                raise RuntimeError("the server did not start")
            time.sleep(0.01)

    def stop(self) -> float:
        """Stop it; returns the seconds that took."""
        assert self._process is not None
        started = time.perf_counter()
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(30)
        return time.perf_counter() - started

    def workflow(self, spec: dict[str, Any]) -> None:
        """Store a workflow."""
        self.http.post("/workflows", json=spec).raise_for_status()

    def active_runs(self) -> int:
        """How many runs the server drives now."""
        answer = httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=30).raise_for_status().json()
        return int(answer["active_runs"])

    def memory_mb(self) -> float:
        """Proportional set size of the server and all processes that it started, databases included."""
        assert self._process is not None
        return sum(_pss_kb(pid) for pid in _family(self._process.pid, str(self.home))) / 1024


def _family(root: int, home: str) -> set[int]:
    parents: dict[int, int] = {}
    found = {root}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if home in (entry / "cmdline").read_text():
                    found.add(int(entry.name))
            except OSError:
                continue
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found |= more
        grown = bool(more)
    return found


def _pss_kb(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
