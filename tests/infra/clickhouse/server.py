"""Starts and stops `tests/clickhouse_server.py` as a process, so that ClickHouse can go away and come back."""

import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

SCRIPT = Path(__file__).parents[2] / "clickhouse_server.py"
PASSWORD = "pass word/1"


class ServerProcess:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://tester:pass%20word%2F1@127.0.0.1:{self.port}/reflux_test"

    def start(self) -> None:
        arguments = ["--dir", str(self.directory), "--port", str(self.port), "--password", PASSWORD]
        self.process = subprocess.Popen([sys.executable, str(SCRIPT), *arguments])
        for _ in range(200):
            if self._answers():
                return
            assert self.process.poll() is None, "the ClickHouse test server has ended"
            time.sleep(0.05)
        raise AssertionError("the ClickHouse test server does not answer")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def control(self, **switches: float) -> None:
        query = "&".join(f"{name}={value}" for name, value in switches.items())
        with urlopen(Request(f"http://127.0.0.1:{self.port}/_control?{query}", data=b"", method="POST")) as answer:
            assert answer.status == 200

    def _answers(self) -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{self.port}/ping") as answer:
                return bool(answer.status == 200)
        except (URLError, ConnectionError):
            return False
