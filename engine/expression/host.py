"""The evaluator's side of the killable host: sends requests, waits for answers, replaces a host that is gone.

The event loop only ever encodes, copies into a socket and waits. An evaluation has no side effects, so a request
whose host died is simply sent again to the next one.
"""

import asyncio
import os
import socket
import subprocess
import sys
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from core.errors import ErrorClass, StepError
from engine.expression.frame import HEAD, MAX_ANSWER, FrameKind, pack

SLOTS = 2
"""Evaluations at once."""

BACKSTOP_SECONDS = 1.0
"""Wall-clock time for an answer; the host is replaced when it takes longer."""

START_SECONDS = 20.0
_ATTEMPTS = 3


class HostTimeout(Exception):
    """No answer within BACKSTOP_SECONDS."""


@dataclass(slots=True, eq=False)
class _Generation:
    """One life of the host's processes."""

    process: subprocess.Popen[bytes]
    free: deque[socket.socket]
    dead: bool = False


@dataclass(slots=True)
class Host:
    """Evaluates requests in processes that the kernel ends when they take too long."""

    _generation: _Generation | None = None
    _slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(SLOTS))
    _starting: asyncio.Lock = field(default_factory=asyncio.Lock)
    _tasks: set[asyncio.Task[tuple[FrameKind, bytes]]] = field(default_factory=set)
    _number: int = 0
    _closed: bool = False

    async def start(self) -> None:
        """Start the processes, if they do not run."""
        await self._running()

    async def aclose(self) -> None:
        """End the processes and wait for them; requests under way fail."""
        self._closed = True
        if self._generation is not None:
            await self._discard(self._generation)
        if self._tasks:
            await asyncio.wait(self._tasks)

    @property
    def pid(self) -> int | None:
        """Process id of the zygote, while there is one."""
        return None if self._generation is None or self._generation.dead else self._generation.process.pid

    async def ask(self, body: bytes) -> tuple[FrameKind, bytes]:
        """Send a request and wait for its answer.

        Raises:
            HostTimeout: no answer within BACKSTOP_SECONDS.
            StepError: class `internal`: the host cannot be started or keeps dying.
        """
        await self._slots.acquire()
        task = asyncio.get_running_loop().create_task(self._ask(body))
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        # A cancelled caller must not leave half a frame in a socket: the exchange is finished without it.
        return await asyncio.shield(task)

    def _finished(self, task: asyncio.Task[tuple[FrameKind, bytes]]) -> None:
        self._tasks.discard(task)
        self._slots.release()
        if not task.cancelled():
            task.exception()  # seen, also when nobody waits for it any more

    async def _ask(self, body: bytes) -> tuple[FrameKind, bytes]:
        for _ in range(_ATTEMPTS):
            generation = await self._running()
            connection = generation.free.popleft()
            self._number += 1
            try:
                async with asyncio.timeout(BACKSTOP_SECONDS):
                    answer = await _exchange(connection, self._number, body)
            except (OSError, EOFError) as error:  # TimeoutError is an OSError
                connection.close()
                await self._discard(generation)
                if isinstance(error, TimeoutError):
                    raise HostTimeout from None
            except BaseException:
                connection.close()
                await self._discard(generation)
                raise
            else:
                if generation.dead:
                    connection.close()
                else:
                    generation.free.append(connection)
                return answer
        raise StepError(ErrorClass.INTERNAL, "the process that evaluates expressions keeps dying")

    async def _running(self) -> _Generation:
        async with self._starting:
            if self._closed:
                raise StepError(ErrorClass.INTERNAL, "the expression evaluator is closed")
            current = self._generation
            if current is not None and not current.dead:
                if current.process.poll() is None:
                    return current
                await self._discard(current)
            self._generation = await _spawn()
            return self._generation

    async def _discard(self, generation: _Generation) -> None:
        """End a generation. Sockets in use are closed by those who use them, when they see the end."""
        generation.dead = True
        generation.process.kill()
        while generation.free:
            generation.free.popleft().close()
        await asyncio.get_running_loop().run_in_executor(None, generation.process.wait)


def _launch(sockets: list[socket.socket]) -> subprocess.Popen[bytes]:
    root = str(Path(__file__).resolve().parents[2])
    descriptors = [one.fileno() for one in sockets]
    return subprocess.Popen(  # noqa: S603 - our own module, our own numbers
        [sys.executable, "-m", "engine.expression.zygote", *map(str, descriptors)],
        pass_fds=descriptors,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        # Nothing of our environment is its business: settings hold passwords.
        env={"PYTHONPATH": root, "PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1"},
        start_new_session=True,
    )


async def _spawn() -> _Generation:
    pairs = [socket.socketpair() for _ in range(SLOTS)]
    ours = [mine for mine, _ in pairs]
    theirs = [their for _, their in pairs]
    process = _launch(theirs)
    for one in theirs:
        one.close()
    try:
        async with asyncio.timeout(START_SECONDS):
            for one in ours:
                one.setblocking(False)
                await _receive_frame(one)
    except (OSError, EOFError):
        for one in ours:
            one.close()
        process.kill()
        await asyncio.get_running_loop().run_in_executor(None, process.wait)
        raise StepError(ErrorClass.INTERNAL, "the process that evaluates expressions does not start") from None
    return _Generation(process, deque(ours))


async def _exchange(connection: socket.socket, number: int, body: bytes) -> tuple[FrameKind, bytes]:
    await asyncio.get_running_loop().sock_sendall(connection, pack(number, FrameKind.REQUEST, body))
    while True:
        answered, kind, answer = await _receive_frame(connection)
        if answered == number:
            return kind, answer


async def _receive_frame(connection: socket.socket) -> tuple[int, FrameKind, bytes]:
    length, number, kind = HEAD.unpack(await _receive(connection, HEAD.size))
    if length > MAX_ANSWER:
        raise EOFError
    return number, FrameKind(kind), await _receive(connection, length)


async def _receive(connection: socket.socket, count: int) -> bytes:
    loop = asyncio.get_running_loop()
    buffer = bytearray()
    while len(buffer) < count:
        piece = await loop.sock_recv(connection, min(count - len(buffer), 1 << 18))
        if not piece:
            raise EOFError
        buffer += piece
    return bytes(buffer)
