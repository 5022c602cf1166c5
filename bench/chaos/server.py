"""A REFLUX server as a process that can be killed and started again, and a client that does not give up."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self
from urllib.error import URLError
from urllib.request import urlopen

import aiohttp

KEY = "rfx_chaos_0123456789abcdef0123456789abcdef"
START_SECONDS = 60.0


class RefluxServer:
    """`reflux up` on one home and one port. Use it as a context manager: it leaves nothing running."""

    def __init__(self, home: Path, port: int, environment: Mapping[str, str] | None = None) -> None:
        self.home = home
        self.port = port
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        return (self.home.parent / "server.log").read_text(errors="replace")

    def start(self) -> None:
        """Start the process; it is not ready yet."""
        environment = {
            **os.environ,
            "REFLUX_EGRESS_ALLOW": "127.0.0.0/8",
            "REFLUX_API_KEY": KEY,
            "REFLUX_LOG_FORMAT": "json",
            **self._environment,
        }
        program = Path(sys.executable).with_name("reflux")
        with (self.home.parent / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [program, "up", "--home", str(self.home), "--port", str(self.port)],
                stdout=log,
                stderr=log,
                env=environment,
            )

    def kill(self) -> None:
        """`kill -9`, as a crash would."""
        self._signal(signal.SIGKILL)

    def stop(self) -> float:
        """Stop it in order; returns the seconds that this took."""
        begun = time.monotonic()
        self._signal(signal.SIGTERM)
        return time.monotonic() - begun

    def end(self) -> None:
        """Leave nothing behind: a killed server's database lives on until the next start, so start once more."""
        if not self.alive:
            self.start()
        deadline = time.monotonic() + START_SECONDS
        while not self._answers() and self.alive and time.monotonic() < deadline:
            time.sleep(0.05)
        if self.alive:
            self.stop()

    def postmaster(self) -> int:
        """The pid of the embedded PostgreSQL."""
        return int((self.home / "pg" / "postmaster.pid").read_text().splitlines()[0])

    def end_postgres(self, kind: signal.Signals) -> bool:
        """Send the embedded PostgreSQL a signal that ends it. False when there is none at this moment."""
        try:
            os.kill(self.postmaster(), kind)
        except (FileNotFoundError, IndexError, ProcessLookupError):
            return False
        return True

    async def ready(self) -> float:
        """Wait until it serves; returns the time (seconds since the epoch)."""
        deadline = time.monotonic() + START_SECONDS
        async with aiohttp.ClientSession() as session:
            while time.monotonic() < deadline:
                try:
                    async with session.get(f"{self.url}/readyz", timeout=aiohttp.ClientTimeout(2)) as answer:
                        if answer.status == 200:
                            return time.time()
                except (aiohttp.ClientError, TimeoutError):
                    pass
                if not self.alive:
                    raise RuntimeError(f"the server has ended: {self.log[-2000:]}")
                await asyncio.sleep(0.02)
        raise RuntimeError(f"the server is not ready: {self.log[-2000:]}")

    def _answers(self) -> bool:
        try:
            with urlopen(f"{self.url}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False

    def _signal(self, kind: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(kind)
        self._process.wait(timeout=20)


class Client:
    """Calls the API. `call` repeats what the server's death or pause has cut off; `once` does not."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {KEY}"},
            timeout=aiohttp.ClientTimeout(15),
            connector=aiohttp.TCPConnector(limit=64, force_close=True),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def once(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """One request: status and body."""
        data = None if body is None else json.dumps(body)
        sent = {"Content-Type": "application/json", **(headers or {})}
        async with self._session.request(method, f"{self._url}/api/v1{path}", data=data, headers=sent) as answer:
            return answer.status, await answer.json(content_type=None)

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        give_up_after: float = 120,
    ) -> Any:
        """The answer's body. Raises RuntimeError for an answer of 4xx, or when nothing answers for too long."""
        deadline = time.monotonic() + give_up_after
        while True:
            trouble = ""
            try:
                status, found = await self.once(method, path, body, headers)
                if status < 400:
                    return found
                trouble = f"{status} {found}"
                if status < 500:
                    raise RuntimeError(f"{method} {path}: {trouble}")
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                trouble = repr(error)
            if time.monotonic() > deadline:
                raise RuntimeError(f"{method} {path} does not succeed: {trouble}")
            await asyncio.sleep(0.05)

    async def pages(self, path: str) -> list[Any]:
        """Every item of a list."""
        items: list[Any] = []
        cursor: Any = None
        while True:
            join = "&" if "?" in path else "?"
            page = await self.call("GET", f"{path}{join}limit=100" + (f"&cursor={cursor}" if cursor else ""))
            items += page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return items

    async def run_until(self, run_id: str, wanted: set[str], seconds: float) -> dict[str, Any]:
        """The run once it has one of the statuses. Raises AssertionError when that takes too long."""
        deadline = time.monotonic() + seconds
        while True:
            run: dict[str, Any] = await self.call("GET", f"/runs/{run_id}")
            if run["status"] in wanted:
                return run
            assert time.monotonic() < deadline, f"run is {run['status']}: {run['steps']}"
            await asyncio.sleep(0.05)
