"""Nodes for tests of workers: each notes in a file that it was called."""

import asyncio
import os
from pathlib import Path

from core.errors import ErrorClass, StepError
from core.json import JsonValue
from engine.node.sdk import StepContext, node


def _note(word: str) -> None:
    with Path(os.environ["TEST_CALLS"]).open("a") as file:
        file.write(f"{word}\n")


@node("test.echo", version="1.0.0", effect="idempotent")
async def echo(context: StepContext, value: JsonValue = None, seconds: float = 0.0) -> JsonValue:
    _note(f"begin {context.idempotency_key}")
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        _note(f"stop {context.idempotency_key}")
        raise
    _note(f"end {context.idempotency_key}")
    context.report(points=3.0)
    context.cost(0.25)
    return value


@node("test.fail", version="1.0.0", effect="unsafe")
async def fail() -> JsonValue:
    raise StepError(ErrorClass.RATE_LIMITED, "slowly", retry_after=2.5, detail={"status": 429}, outcome_unknown=True)


@node("test.plain", version="1.0.0", effect="pure")
def plain(context: StepContext) -> int:
    return os.getpid()


@node("test.reveal", version="1.0.0", effect="pure")
async def reveal(token: str) -> JsonValue:
    return {"length": len(token), "starts": token[:7], "told": token}


@node("test.slow_unsafe", version="1.0.0", effect="unsafe")
async def slow_unsafe(context: StepContext, seconds: float) -> JsonValue:
    _note(f"begin {context.idempotency_key}")
    await asyncio.sleep(seconds)
    return None
