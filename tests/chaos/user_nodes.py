"""Nodes of a user who means no good, loaded through REFLUX_NODES and by the runner's tests."""

import asyncio
import os
import signal
import time

from core.errors import ErrorClass, StepError
from core.json import JsonValue
from engine.node.sdk import StepContext, node


@node("user.sleep", version="1.0.0", effect="idempotent")
def sleep(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


@node("user.spin", version="1.0.0", effect="idempotent")
def spin(seconds: float) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return "spun"


@node("user.kill_child", version="1.0.0", effect="idempotent")
def kill_child() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@node("user.kill_server", version="1.0.0", effect="idempotent")
async def kill_server() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@node("user.kill_server_pure", version="1.0.0", effect="pure")
async def kill_server_pure() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@node("user.stubborn", version="1.0.0", effect="idempotent")
async def stubborn(seconds: float) -> str:
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while (left := end - loop.time()) > 0:
        try:
            await asyncio.sleep(left)
        except asyncio.CancelledError:
            continue
    return "never stopped"


@node("user.fails_until", version="1.0.0", effect="idempotent")
async def fails_until(context: StepContext, attempt: int) -> JsonValue:
    if context.attempt < attempt:
        raise StepError(ErrorClass.NETWORK, f"attempt {context.attempt} fails")
    return context.attempt
