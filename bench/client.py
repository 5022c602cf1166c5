"""A closed-loop HTTP client that costs as little as possible: it shares the machine with what it measures.

Run as a process of its own: `python -m bench.client URL KEY PATH BODY CALLERS SECONDS`; prints one line of JSON.
"""

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import uvloop


@dataclass(frozen=True)
class Load:
    """What a closed loop measured. Times in milliseconds."""

    calls: int
    errors: int
    seconds: float
    per_second: float
    p50: float
    p95: float
    p99: float


class _Caller(asyncio.Protocol):
    """One keep-alive connection that sends the next request when the answer is complete."""

    def __init__(self, request: bytes, until: float, wanted: bytes, most: int) -> None:
        self._request = request
        self._until = until
        self._most = most
        self._wanted = wanted
        self._buffer = b""
        self._sent_at = 0.0
        self.times: list[float] = []
        self.errors = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._send()

    def _send(self) -> None:
        self._sent_at = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        at = head.lower().find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0])
        if len(rest) < length:
            return
        self._buffer = b""
        self.times.append((time.perf_counter() - self._sent_at) * 1000)
        if not head.startswith(b"HTTP/1.1 20") or self._wanted not in rest:
            self.errors += 1
        if time.perf_counter() < self._until and len(self.times) < self._most:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


async def load(
    host: str, port: int, request: bytes, callers: int, seconds: float, wanted: bytes, most: int = sys.maxsize
) -> Load:
    """Keep `callers` connections busy for `seconds`, each with at most `most` calls."""
    started = time.perf_counter()
    until = started + seconds
    loop = asyncio.get_running_loop()
    protocols = [
        (await loop.create_connection(lambda: _Caller(request, until, wanted, most), host, port))[1]
        for _ in range(callers)
    ]
    for one in protocols:
        await one.done
    took = time.perf_counter() - started
    times = sorted(time for one in protocols for time in one.times)
    errors = sum(one.errors for one in protocols)
    return Load(
        len(times),
        errors,
        round(took, 2),
        round(len(times) / took, 1),
        *(round(_at(times, q), 2) for q in (0.5, 0.95, 0.99)),
    )


def post(host: str, port: int, path: str, key: str, body: str) -> bytes:
    """The bytes of a POST request."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body.encode())}\r\n\r\n{body}"
    ).encode()


def _at(times: list[float], quantile: float) -> float:
    return times[min(len(times) - 1, int(len(times) * quantile))] if times else float("nan")


def main() -> None:
    host, port, key, path, body, callers, seconds, wanted = sys.argv[1:9]
    request = post(host, int(port), path, key, body)
    found = uvloop.run(load(host, int(port), request, int(callers), float(seconds), wanted.encode()))
    print(json.dumps(asdict(found)))


if __name__ == "__main__":
    main()
