import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from core.errors import ErrorClass, StepError
from engine.node.process import NodeProcesses
from engine.node.registry import NodeRegistry
from engine.node.sdk import NodeVersion
from tests.engine.node import sample_nodes
from tests.engine.node.step_context import make_context

_registry = NodeRegistry()
_registry.load_module(Path(sample_nodes.__file__))


def sample(name: str) -> NodeVersion:
    return _registry.resolve(f"sample.{name}")


@pytest.fixture(scope="module")
async def processes() -> AsyncIterator[NodeProcesses]:
    async with NodeProcesses(size=2) as processes:
        yield processes


async def _gone(pid: int) -> bool:
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        await asyncio.sleep(0.01)
    return False


async def test_a_plain_function_runs_in_a_child_that_is_used_again(processes: NodeProcesses) -> None:
    assert await processes.run(sample("double"), {"number": "21"}, make_context()) == 42
    first = await processes.run(sample("pid"), {}, make_context())
    assert first != os.getpid()
    assert await processes.run(sample("pid"), {}, make_context()) == first


async def test_what_the_node_prints_does_not_touch_the_wire(processes: NodeProcesses) -> None:
    assert await processes.run(sample("noisy"), {}, make_context()) == "done"


async def test_the_context_goes_there_and_the_report_comes_back(processes: NodeProcesses) -> None:
    context = make_context(attempt=4)
    output = await processes.run(sample("told"), {}, context)
    assert output["key"] == context.idempotency_key
    assert output["attempt"] == 4
    reported = context.reported
    assert reported.metrics == {"rows": 3.0}
    assert (reported.cost_usd, reported.tokens_in, reported.tokens_out) == (0.25, 10, 20)
    assert reported.sensitive == ["c2VjcmV0"]


@pytest.mark.parametrize(
    ("name", "params", "error_class", "message"),
    [
        ("fail", {}, ErrorClass.INTERNAL, "KeyError: 'no such thing'"),
        ("leave", {}, ErrorClass.INTERNAL, "SystemExit: 3"),
        ("double", {"number": "x"}, ErrorClass.INVALID_INPUT, "`number`"),
        ("double", {"number": object()}, ErrorClass.INVALID_INPUT, "cannot be sent"),
        ("odd", {}, ErrorClass.INTERNAL, "cannot be sent"),
        ("crash", {"number": int(signal.SIGSEGV)}, ErrorClass.INTERNAL, "ended with signal SIGSEGV (11)"),
        ("abort", {}, ErrorClass.INTERNAL, "ended with exit code 5"),
    ],
)
async def test_failures_are_named(
    processes: NodeProcesses, name: str, params: dict[str, object], error_class: ErrorClass, message: str
) -> None:
    with pytest.raises(StepError) as raised:
        await processes.run(sample(name), params, make_context())
    assert raised.value.error_class is error_class
    assert message in raised.value.message
    assert raised.value.outcome_unknown is (name == "crash")
    assert await processes.run(sample("double"), {"number": 1}, make_context()) == 2


async def test_a_step_error_arrives_whole(processes: NodeProcesses) -> None:
    context = make_context()
    with pytest.raises(StepError) as raised:
        await processes.run(sample("refuse"), {}, context)
    error = raised.value
    assert (error.error_class, error.retry_after, error.detail) == (ErrorClass.RATE_LIMITED, 3.5, {"status": 429})
    assert context.reported.metrics == {"tries": 2.0}


async def test_a_spinning_node_is_killed_on_time_out(processes: NodeProcesses) -> None:
    await processes.run(sample("pid"), {}, make_context())
    begun = time.monotonic()
    with pytest.raises(StepError) as raised:
        await processes.run(sample("spin"), {"seconds": 60}, make_context(timeout=0.2))
    assert raised.value.error_class is ErrorClass.TIMEOUT
    assert time.monotonic() - begun < 0.2 + 0.3  # 100 ms promised; the rest is for a busy machine


async def test_cancelling_kills_the_node_and_what_it_started(processes: NodeProcesses, tmp_path: Path) -> None:
    path = tmp_path / "pids"
    call = asyncio.create_task(processes.run(sample("family"), {"path": str(path)}, make_context(timeout=60)))
    while not path.exists() or " " not in path.read_text():
        await asyncio.sleep(0.02)
        assert not call.done()
    pids = [int(one) for one in path.read_text().split()]
    begun = time.monotonic()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert time.monotonic() - begun < 0.4
    assert [await _gone(pid) for pid in pids] == [True, True]
    assert await processes.run(sample("double"), {"number": 1}, make_context()) == 2


async def test_no_more_than_the_size_run_at_once() -> None:
    async with NodeProcesses(size=1) as one:
        await one.run(sample("pid"), {}, make_context())
        begun = time.monotonic()
        # Both fit their own time limit: waiting for a turn does not count.
        calls = [one.run(sample("spin"), {"seconds": 0.3}, make_context(timeout=0.5)) for _ in range(2)]
        await asyncio.gather(*calls)
        assert time.monotonic() - begun >= 0.6


async def test_closing_leaves_no_child() -> None:
    async with NodeProcesses() as pool:
        pid = await pool.run(sample("pid"), {}, make_context())
    assert await _gone(pid)
