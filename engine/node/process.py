"""The killable lane: plain functions run in child processes, because a thread cannot be stopped."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

from core.errors import ErrorClass, StepError
from core.json import JsonValue
from core.manifest import Effect
from engine.node.context import Report, StepContext
from engine.node.frame import HEADER, MAX_FRAME, pack, unpack
from engine.node.version import NodeVersion


class NodeProcesses:
    """Child processes that run one call at a time and are used again.

    Args:
        size: calls that run at once; further ones wait for their turn.
    """

    def __init__(self, size: int = 2) -> None:
        self._turns = asyncio.Semaphore(size)
        self._idle: list[asyncio.subprocess.Process] = []
        self._busy: set[asyncio.subprocess.Process] = set()

    async def run(self, version: NodeVersion, values: Mapping[str, JsonValue], context: StepContext) -> JsonValue:
        """Run one attempt. `context.timeout` counts from when a child is free; waiting can be cancelled.

        Whatever ends the wait early, time-out or cancellation, the child is killed with all that it started.

        Raises:
            StepError: what the node raised; TIMEOUT; INTERNAL when the node raised something else or its process ended.
        """
        unsure = (context.effect or version.effect_of(values)) is Effect.UNSAFE
        async with self._turns, self._child() as child:
            try:
                async with asyncio.timeout(context.timeout):
                    answer = await _call(child, _message(version, values, context))
            except TimeoutError:
                sentence = f"The node did not finish within {context.timeout:g} s and was stopped."
                raise StepError(ErrorClass.TIMEOUT, sentence, outcome_unknown=unsure) from None
            except (asyncio.IncompleteReadError, ConnectionError):
                code = await child.wait()
                raise StepError(ErrorClass.INTERNAL, _ending(code), outcome_unknown=unsure) from None
        _merge(context.reported, answer["reported"])
        if "error" in answer:
            raise _error(answer["error"])
        return answer["output"]

    async def aclose(self) -> None:
        """Kill every child and wait until they are gone."""
        for child in [*self._idle, *self._busy]:
            await _kill(child)
        self._idle.clear()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    @asynccontextmanager
    async def _child(self) -> AsyncIterator[asyncio.subprocess.Process]:
        child = self._idle.pop() if self._idle else await _spawn()
        self._busy.add(child)
        reusable = False
        try:
            yield child
            reusable = True
        finally:
            if not reusable:
                await asyncio.shield(_kill(child))
            self._busy.discard(child)
            if reusable and child.returncode is None:
                self._idle.append(child)


async def _spawn() -> asyncio.subprocess.Process:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "engine.node.child",
        str(os.getpid()),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=environment,
        start_new_session=True,  # so that what the node starts can be killed with it
    )


async def _kill(child: asyncio.subprocess.Process) -> None:
    # The group may outlive its leader, so it is killed even when the child has ended by itself.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    with suppress(ProcessLookupError):
        child.kill()
    if child.stdin is not None:
        child.stdin.close()
    await child.wait()


async def _call(child: asyncio.subprocess.Process, message: bytes) -> dict[str, Any]:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(message)
    await child.stdin.drain()
    (length,) = HEADER.unpack(await child.stdout.readexactly(HEADER.size))
    if length > MAX_FRAME:
        raise ConnectionError("the wire is corrupt")
    return unpack(await child.stdout.readexactly(length))


def _message(version: NodeVersion, values: Mapping[str, JsonValue], context: StepContext) -> bytes:
    if version.origin is None:
        raise TypeError(f"{version} has no origin that a child process could import")
    call: dict[str, JsonValue] = {
        "origin": asdict(version.origin),
        "with": dict(values),
        "context": {
            "run_id": str(context.run_id),
            "step_id": context.step_id,
            "item": context.item,
            "attempt": context.attempt,
            "idempotency_key": context.idempotency_key,
            "timeout": context.timeout,
            "effect": context.effect,
            "now": context.clock.now().isoformat(),
        },
    }
    try:
        return pack(call)
    except ValueError as error:
        raise StepError(ErrorClass.INVALID_INPUT, f"The parameters cannot be sent to the node: {error}.") from None


def _ending(code: int) -> str:
    if code >= 0:
        return f"The node's process ended with exit code {code}."
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "unknown"
    return f"The node's process ended with signal {name} ({-code})."


def _merge(reported: Report, sent: Mapping[str, Any]) -> None:
    reported.metrics.update(sent.get("metrics", {}))
    reported.cost_usd += sent.get("cost_usd", 0.0)
    reported.tokens_in += sent.get("tokens_in", 0)
    reported.tokens_out += sent.get("tokens_out", 0)
    reported.sensitive.extend(sent.get("sensitive", ()))


def _error(sent: Mapping[str, Any]) -> StepError:
    return StepError(
        ErrorClass(sent["class"]),
        sent["message"],
        retry_after=sent["retry_after"],
        detail=sent["detail"],
        outcome_unknown=sent["outcome_unknown"],
    )
