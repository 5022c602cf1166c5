"""The worker process of the killable lane: reads one call, runs it, answers. `engine.node.process` starts it.

The node's code has stdin, stdout and stderr that lead nowhere: it cannot corrupt the wire, and what it prints may
hold secrets and must not reach a log.
"""

import ctypes
import importlib
import os
import random
import secrets
import signal
import sys
import time
import uuid
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

from core.clock import uuid7
from core.errors import ErrorClass, StepError
from core.ids import RunId, StepId
from core.json import JsonValue
from core.manifest import Effect
from engine.node.context import StepContext
from engine.node.frame import HEADER, pack, unpack
from engine.node.registry import import_file
from engine.node.version import NodeVersion

_PR_SET_PDEATHSIG = 1


class _ChildClock:
    """The parent's time, carried on by this process's own monotonic clock."""

    def __init__(self, started: datetime) -> None:
        self._started = started
        self._origin = time.monotonic()
        self._chance = random.SystemRandom()

    def now(self) -> datetime:
        return self._started + timedelta(seconds=time.monotonic() - self._origin)

    def monotonic(self) -> float:
        return time.monotonic()

    def random(self) -> float:
        return self._chance.random()

    def new_id(self) -> uuid.UUID:
        return uuid7(int(self.now().timestamp() * 1000), secrets.randbits(74))


class _NoEvaluator:
    async def evaluate(self, source: str, variables: Mapping[str, JsonValue]) -> JsonValue:
        raise StepError(ErrorClass.EXPRESSION, "A node in a child process cannot evaluate expressions.")


def _find(origin: Mapping[str, Any]) -> NodeVersion:
    module_name, file = origin["module"], origin["file"]
    try:
        if module_name == "__main__":
            raise ModuleNotFoundError(name=module_name)
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if file is None or not f"{module_name}.".startswith(f"{missing}."):
            raise
        module = import_file(Path(file))
    found: Any = module
    for part in origin["qualname"].split("."):
        found = getattr(found, part)
    if not isinstance(found, NodeVersion):
        raise TypeError(f"{module_name}:{origin['qualname']} is not a node")
    return found


def _context(given: Mapping[str, Any]) -> StepContext:
    return StepContext(
        run_id=RunId(uuid.UUID(given["run_id"])),
        step_id=StepId(given["step_id"]),
        item=given["item"],
        attempt=given["attempt"],
        idempotency_key=given["idempotency_key"],
        timeout=given["timeout"],
        clock=_ChildClock(datetime.fromisoformat(given["now"])),
        evaluator=_NoEvaluator(),
        effect=Effect(given["effect"]) if given["effect"] else None,
    )


def _answer(call: Mapping[str, Any]) -> bytes:
    context = _context(call["context"])
    answer: dict[str, Any] = {}
    try:
        answer["output"] = _find(call["origin"]).call(call["with"], context)
    except StepError as error:
        answer["error"] = _error(error)
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 -- task boundary: the node's own code
        answer["error"] = _error(StepError(ErrorClass.INTERNAL, f"{type(error).__name__}: {error}"))
    reported = context.reported
    answer["reported"] = {name: getattr(reported, name) for name in reported.__slots__}
    try:
        return pack(answer)
    except ValueError as error:
        wrong = StepError(ErrorClass.INTERNAL, f"The node's output cannot be sent: {error}")
        return pack({"error": _error(wrong), "reported": {}})


def _error(error: StepError) -> dict[str, JsonValue]:
    return {
        "class": error.error_class.value,
        "message": error.message,
        "retry_after": error.retry_after,
        "detail": error.detail,
        "outcome_unknown": error.outcome_unknown,
    }


def _keep_wire() -> tuple[BinaryIO, BinaryIO]:
    calls, answers = os.dup(0), os.dup(1)  # not inheritable, so the node's own children do not hold them open
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    return os.fdopen(calls, "rb"), os.fdopen(answers, "wb", buffering=0)


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)


def main() -> None:
    """Serve calls until the parent closes the wire."""
    _die_with(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is the parent's business
    calls, answers = _keep_wire()
    while header := calls.read(HEADER.size):
        (length,) = HEADER.unpack(header)
        answers.write(_answer(unpack(calls.read(length))))


if __name__ == "__main__":
    main()
