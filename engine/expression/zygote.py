"""The killable host's process: `python -m engine.expression.zygote FD...`.

A zygote imports the native library once and forks a worker for each socket. A worker evaluates one request at a
time. The kernel ends it after CPU_SECONDS of processor time, even while native code holds the interpreter; the zygote
then answers in its place with a death notice and forks the next one within milliseconds. Everything ends when the
parent closes its sockets or dies.

SIGPROF counts system time too: a loop that only maps and unmaps memory spends hardly any user time.
"""

import ctypes
import mmap
import os
import resource
import signal
import socket
import struct
import sys
from typing import Any

import cel
import orjson

from core.json import JsonError, decode
from engine.expression.frame import HEAD, MAX_REQUEST, FrameKind, pack
from engine.expression.result import BadResult, size_of, to_json

CPU_SECONDS = 0.05
MEMORY_ABOVE_BASELINE = 256 * 1024 * 1024
MAX_LIST = 10_000
"""Elements of a list that comprehension macros may go through."""

CHUNK = 64
"""Elements of a list for one native `map` or `filter`, whose cost grows with the square of the length."""

_WORD = struct.Struct("<Q")
_PR_SET_PDEATHSIG = 1


class _ListTooLong(Exception):
    """A list is longer than comprehension macros may take."""


def main(descriptors: list[int]) -> None:
    """Serve until the parent is gone."""
    _die_with_parent()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    # The number of the request that each worker is busy with, in memory that outlives the worker.
    busy = mmap.mmap(-1, _WORD.size * len(sockets))
    workers = {_fork_worker(slot, sockets, busy): slot for slot in range(len(sockets))}
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid not in workers:
            continue
        slot = workers.pop(pid)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
            return  # the parent has closed its end
        (number,) = _WORD.unpack_from(busy, slot * _WORD.size)
        _WORD.pack_into(busy, slot * _WORD.size, 0)
        if number:
            ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
            try:
                sockets[slot].sendall(pack(number, FrameKind.DEATH, str(ended_by).encode()))
            except OSError:
                return
        workers[_fork_worker(slot, sockets, busy)] = slot


def _die_with_parent() -> None:
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _fork_worker(slot: int, sockets: list[socket.socket], busy: mmap.mmap) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == 1:
            os._exit(1)
        for other, one in enumerate(sockets):
            if other != slot:
                one.close()
        _serve(sockets[slot], busy, slot * _WORD.size)
    except OSError:
        os._exit(0)  # the parent's end is closed
    os._exit(0)


def _serve(connection: socket.socket, busy: mmap.mmap, place: int) -> None:
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    with open("/proc/self/statm") as file:
        baseline = int(file.read().split()[0]) * mmap.PAGESIZE
    resource.setrlimit(resource.RLIMIT_AS, (baseline + MEMORY_ABOVE_BASELINE,) * 2)
    connection.sendall(pack(0, FrameKind.READY, b""))
    while True:
        length, number, _ = HEAD.unpack(_receive(connection, HEAD.size))
        if length > MAX_REQUEST:
            os._exit(1)
        body = _receive(connection, length)
        _WORD.pack_into(busy, place, number)
        frame = _answer(number, body)
        # From here the parent gets this answer, so a death must not be answered again.
        _WORD.pack_into(busy, place, 0)
        connection.sendall(frame)


def _receive(connection: socket.socket, count: int) -> bytes:
    buffer = bytearray(count)
    view = memoryview(buffer)
    while view:
        got = connection.recv_into(view)
        if got == 0:
            os._exit(0)
        view = view[got:]
    return bytes(buffer)


def _answer(number: int, body: bytes) -> bytes:
    # Decoding and converting the values has its own allowance; evaluation starts with a full one.
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        return pack(number, FrameKind.VALUE, _evaluate(body))
    except MemoryError:
        return _failure(number, "MemoryError", "")
    except RecursionError:
        return _failure(number, "BadResult", "the value is nested too deep")
    # Task boundary: whatever the native library raises is the answer to this request.
    except Exception as error:  # noqa: BLE001
        return _failure(number, type(error).__name__, str(error))
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _failure(number: int, kind: str, said: str) -> bytes:
    return pack(number, FrameKind.FAILURE, orjson.dumps([kind, said[:2000].encode(errors="replace").decode()]))


def _evaluate(body: bytes) -> bytes:
    try:
        request = decode(body, max_depth=105)
    except JsonError as error:
        raise BadResult(str(error)) from None
    scope = request["scope"]
    if request["macros"]:
        _check_lists(scope)
    split = request["split"]
    if split is not None:
        result = _evaluate_chunks(split, scope)
    else:
        program = cel.compile(request["source"])
        context = _context(scope)
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        result = to_json(program.execute(context))
    size_of(result)
    return orjson.dumps(result)


def _context(scope: dict[str, Any]) -> cel.Context:
    context = cel.Context()
    for name, value in scope.items():
        context.add_variable(name, value)
    return context


def _evaluate_chunks(split: dict[str, Any], scope: dict[str, Any]) -> list[Any]:
    """`path.map(x, …)` or `path.filter(x, …)` piece by piece: the same result, without the square of the length."""
    items: Any = scope
    for key in split["path"]:
        items = items[key]
    program = cel.compile(split["source"])
    context = _context({name: value for name, value in scope.items() if name in split["roots"]})
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    result: list[Any] = []
    for start in range(0, len(items), CHUNK):
        context.add_variable(split["name"], items[start : start + CHUNK])
        result.extend(to_json(program.execute(context)))
    return result


def _check_lists(scope: Any) -> None:
    waiting = [scope]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list):
            if len(value) > MAX_LIST:
                raise _ListTooLong(str(MAX_LIST))
            waiting.extend(value)


if __name__ == "__main__":
    main([int(argument) for argument in sys.argv[1:]])
