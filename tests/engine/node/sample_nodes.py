"""Nodes of a user, for the tests of the loader and of the child processes."""

import os
import signal
import subprocess
import sys
import time

from core.errors import ErrorClass, StepError
from core.json import JsonValue
from engine.node.sdk import StepContext, node


@node("sample.double", version="1.0.0", effect="pure")
def double(number: int) -> int:
    """Double a number."""
    return number * 2


@node("sample.pid", version="1.0.0", effect="pure")
def pid() -> int:
    return os.getpid()


@node("sample.noisy", version="1.0.0")
def noisy() -> str:
    print("to stdout" * 1000, flush=True)
    os.write(1, b"\x00\x00\xff\xff raw bytes")
    print("to stderr", file=sys.stderr)
    subprocess.run(["echo", "from a child"], check=True)
    return sys.stdin.read() + "done"


@node("sample.spin", version="1.0.0")
def spin(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


@node("sample.family", version="1.0.0")
def family(path: str) -> None:
    with subprocess.Popen(["sleep", "60"]) as child, open(path, "w") as file:
        file.write(f"{os.getpid()} {child.pid}")
        file.flush()
        time.sleep(60)


@node("sample.crash", version="1.0.0")
def crash(number: int) -> None:
    os.kill(os.getpid(), number)


@node("sample.leave", version="1.0.0")
def leave() -> None:
    sys.exit(3)


@node("sample.abort", version="1.0.0", effect="pure")
def abort() -> None:
    os._exit(5)


@node("sample.fail", version="1.0.0")
def fail() -> None:
    raise KeyError("no such thing")


@node("sample.refuse", version="1.0.0")
def refuse(context: StepContext) -> None:
    context.report(tries=2)
    raise StepError(ErrorClass.RATE_LIMITED, "slow down", retry_after=3.5, detail={"status": 429})


@node("sample.odd", version="1.0.0")
def odd() -> JsonValue:
    return object()


@node("sample.told", version="1.0.0")
def told(context: StepContext) -> dict[str, JsonValue]:
    context.report(rows=3)
    context.cost(0.25)
    context.tokens(10, 20)
    context.sensitive("c2VjcmV0")
    early = context.clock.now().isoformat()
    return {"key": context.idempotency_key, "attempt": context.attempt, "now": early, "sig": signal.SIGKILL.value}
