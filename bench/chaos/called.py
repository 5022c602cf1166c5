"""The server that the workflows call: it counts every call by its `Idempotency-Key`.

It is a process of its own, so that it remembers what a killed REFLUX cannot:
`python -m bench.chaos.called PORT`.

    any    /add/{n}?ms=20   waits, then answers {"v": n + 1}
    any    /hang            never answers
    GET    /calls           every call so far: [{key, method, at, answered}]
    GET    /gauges          how many calls of /add/{n}?gauge=NAME were under way at once, at most: {name: number}
"""

import asyncio
import socket
import subprocess
import sys
import time
import uuid
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web


@dataclass(frozen=True, slots=True)
class Call:
    """One call that was received.

    Attributes:
        at: seconds since the epoch.
        answered: whether the whole answer was sent.
    """

    key: str
    method: str
    at: float
    answered: bool


class CalledServer:
    """The process, seen from the one who starts it."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-m", "bench.chaos.called", str(self.port)])
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise RuntimeError("the called server does not answer")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    async def calls(self) -> list[Call]:
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}/calls") as answer:
            return [Call(**one) for one in await answer.json()]

    async def gauges(self) -> dict[str, int]:
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}/gauges") as answer:
            return {str(name): int(most) for name, most in (await answer.json()).items()}

    async def calls_of(self, run_id: str) -> list[Call]:
        return [one for one in await self.calls() if one.key.startswith(f"{uuid.UUID(run_id)}:")]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _application() -> web.Application:
    calls: list[dict[str, Any]] = []
    under_way: defaultdict[str, list[web.Request]] = defaultdict(list)
    most: defaultdict[str, int] = defaultdict(int)

    def note(request: web.Request) -> dict[str, Any]:
        key = request.headers.get("Idempotency-Key", "")
        call = {"key": key, "method": request.method, "at": time.time(), "answered": False}
        calls.append(call)
        return call

    async def work(request: web.Request) -> None:
        gauge = under_way[request.query.get("gauge", "")]
        gauge.append(request)
        # Whoever was killed has hung up: his calls are not under way any more.
        now = sum(1 for one in gauge if one.transport is not None and not one.transport.is_closing())
        most[request.query.get("gauge", "")] = max(most[request.query.get("gauge", "")], now)
        await asyncio.sleep(float(request.query.get("ms", "0")) / 1000)
        gauge[:] = [one for one in gauge if one is not request]

    async def add(request: web.Request) -> web.StreamResponse:
        call = note(request)
        await work(request)
        answer = web.json_response({"v": int(request.match_info["n"]) + 1})
        await answer.prepare(request)
        with suppress(ConnectionError):  # the caller was killed meanwhile
            await answer.write_eof()
            call["answered"] = True
        return answer

    async def hang(request: web.Request) -> web.StreamResponse:
        note(request)
        await asyncio.sleep(3600)
        return web.Response()

    async def listed(_: web.Request) -> web.StreamResponse:
        return web.json_response(calls)

    async def gauges(_: web.Request) -> web.StreamResponse:
        return web.json_response(most)

    app = web.Application()
    app.router.add_route("*", "/add/{n}", add)
    app.router.add_route("*", "/hang", hang)
    app.router.add_get("/calls", listed)
    app.router.add_get("/gauges", gauges)
    return app


if __name__ == "__main__":
    web.run_app(_application(), host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)
