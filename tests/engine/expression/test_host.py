import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import uvloop

from core.errors import StepError
from engine.expression.evaluator import Evaluator

SLOW = "input.map(a, input.map(b, a * b))"
NEEDS_HOST = "input.map(a, a + 1).map(a, a)[0]"
VARIABLES = {"input": list(range(3))}
HEAVY = {"input": list(range(5_000))}


def children_of(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[1]) == pid and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def is_alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


async def gone(pids: list[int]) -> bool:
    for _ in range(200):
        if not any(is_alive(pid) for pid in pids):
            return True
        await asyncio.sleep(0.02)
    return False


async def test_it_starts_by_itself_and_ends_when_closed() -> None:
    evaluator = Evaluator()
    assert evaluator.host_pid is None
    assert await evaluator.evaluate(NEEDS_HOST, VARIABLES) == 1
    pid = evaluator.host_pid
    assert pid is not None
    workers = children_of(pid)
    assert len(workers) == 2
    await evaluator.aclose()
    assert await gone([pid, *workers])
    with pytest.raises(StepError, match="closed"):
        await evaluator.evaluate(NEEDS_HOST, VARIABLES)


async def test_a_killed_host_is_replaced_without_an_error() -> None:
    evaluator = Evaluator()
    await evaluator.start()
    for _ in range(3):
        pid = evaluator.host_pid
        assert pid is not None
        workers = children_of(pid)
        asking = [asyncio.create_task(evaluator.evaluate(NEEDS_HOST, VARIABLES)) for _ in range(6)]
        await asyncio.sleep(0)
        os.kill(pid, signal.SIGKILL)
        assert await asyncio.gather(*asking) == [1] * 6
        assert await gone([pid, *workers])
        assert await evaluator.evaluate(NEEDS_HOST, VARIABLES) == 1
        assert evaluator.host_pid != pid
    await evaluator.aclose()


async def test_a_killed_idle_worker_is_replaced() -> None:
    evaluator = Evaluator()
    await evaluator.start()
    pid = evaluator.host_pid
    assert pid is not None
    for worker in children_of(pid):
        os.kill(worker, signal.SIGKILL)
    answers = await asyncio.gather(*(evaluator.evaluate(NEEDS_HOST, VARIABLES) for _ in range(6)))
    assert answers == [1] * 6
    assert evaluator.host_pid == pid
    await evaluator.aclose()


async def test_a_stopped_host_is_noticed_and_replaced() -> None:
    evaluator = Evaluator()
    await evaluator.start()
    pid = evaluator.host_pid
    assert pid is not None
    for one in (pid, *children_of(pid)):
        os.kill(one, signal.SIGSTOP)
    started = time.perf_counter()
    with pytest.raises(StepError, match="no answer within 1 s"):
        await evaluator.evaluate(NEEDS_HOST, VARIABLES)
    assert time.perf_counter() - started < 2
    assert await evaluator.evaluate(NEEDS_HOST, VARIABLES) == 1
    await evaluator.aclose()


async def test_a_cancelled_request_does_no_harm() -> None:
    evaluator = Evaluator()
    await evaluator.start()
    for _ in range(4):
        asking = asyncio.create_task(evaluator.evaluate(SLOW, HEAVY))
        await asyncio.sleep(0.005)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    assert await evaluator.evaluate(NEEDS_HOST, VARIABLES) == 1
    await evaluator.aclose()


def test_it_works_with_uvloop() -> None:
    async def use() -> None:
        evaluator = Evaluator()
        assert await evaluator.evaluate(NEEDS_HOST, VARIABLES) == 1
        with pytest.raises(StepError, match="too long"):
            await evaluator.evaluate(SLOW, HEAVY)
        assert await evaluator.evaluate("size(input)", {"input": ["x" * 1000] * 3_900}) == 3_900
        await evaluator.aclose()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(use())


async def test_it_dies_with_its_parent(tmp_path: Path) -> None:
    program = (
        "import asyncio\n"
        "from engine.expression.evaluator import Evaluator\n"
        "async def main():\n"
        "    evaluator = Evaluator()\n"
        "    await evaluator.start()\n"
        "    print(evaluator.host_pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    root = str(Path(__file__).resolve().parents[3])
    with subprocess.Popen([sys.executable, "-c", program], cwd=root, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        processes = [pid, *children_of(pid)]
        assert len(processes) == 3
        parent.kill()
    assert await gone(processes)


async def test_the_host_knows_nothing_of_our_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFLUX_PASSWORD", "hidden")
    evaluator = Evaluator()
    await evaluator.start()
    assert b"REFLUX_PASSWORD" not in (Path("/proc") / str(evaluator.host_pid) / "environ").read_bytes()
    await evaluator.aclose()
