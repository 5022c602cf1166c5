"""`make bench`: the engine's figures, each beside a raw limit of the same machine in the same run."""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.table import Table

from bench import raw
from bench.client import Load, load, post
from bench.control import control_rates
from bench.row import Row
from bench.server import Service, free_port, slow_server
from bench.trace_rates import trace_rates
from infra.postgres.embedded import EmbeddedPostgres


def _step(step_id: str, value: str) -> dict[str, Any]:
    return {"id": step_id, "node": "transform.map", "with": {"value": {"n": value}}}


def _chain(name: str, length: int, node: str) -> dict[str, Any]:
    steps: list[dict[str, Any]] = []
    for i in range(length):
        before = "input.n" if i == 0 else f"steps.s{i - 1}.output" + (".n" if node == "transform.map" else "")
        value = f"{{{{ {before} + 1 }}}}" if node == "transform.map" else f"{{{{ {before} }}}}"
        params = {"value": {"n": value}} if node == "transform.map" else {"n": value}
        steps.append({"id": f"s{i}", "node": node, "with": params})
    return {"name": name, "steps": steps, "outputs": {"done": True}}


def _workflows(slow_port: int) -> list[dict[str, Any]]:
    fan = [_step(f"p{i}", "{{ steps.first.output.n }}") for i in range(10)]
    total = " + ".join(f"steps.p{i}.output.n" for i in range(10))
    return [
        {**_chain("w1", 3, "transform.map"), "outputs": {"n": "{{ steps.s2.output.n }}"}},
        {
            "name": "w2",
            "steps": [_step("first", "{{ input.n }}"), *fan, _step("last", "{{ " + total + " }}")],
            "outputs": {"n": "{{ steps.last.output.n }}"},
        },
        {
            "name": "w3",
            "steps": [
                _step("first", "{{ input.n }}"),
                {
                    "id": "wait",
                    "node": "http.request",
                    "needs": ["first"],
                    "with": {"url": f"http://127.0.0.1:{slow_port}/"},
                },
                _step("last", "{{ steps.wait.output.status }}"),
            ],
            "outputs": {"n": "{{ steps.last.output.n }}"},
        },
        _chain("pure100", 100, "transform.map"),
        _chain("effect100", 100, "bench.touch"),
    ]


def _closed_loop(service: Service, workflow: str, callers: int, seconds: float, wanted: str) -> Load:
    path = f"/api/v1/workflows/{workflow}/execute?wait=30"
    command = [
        sys.executable, "-m", "bench.client", "127.0.0.1", str(service.port), service.key, path,
        '{"input":{"n":1}}', str(callers), str(seconds), wanted,
    ]  # fmt: skip
    found = Load(**json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
    if found.errors:
        raise RuntimeError(f"{found.errors} of {found.calls} answers of {workflow} are wrong")
    return found


async def _batch(service: Service, workflow: str, runs: int, at_once: int) -> float:
    """Seconds that a number of runs takes, so many at once."""
    request = post(
        "127.0.0.1", service.port, f"/api/v1/workflows/{workflow}/execute?wait=60", service.key, '{"input":{"n":1}}'
    )
    started = time.perf_counter()

    async def one(count: int) -> None:
        for _ in range(count):
            found = await load("127.0.0.1", service.port, request, 1, 0, b'"status":"completed"')
            if found.errors:
                raise RuntimeError(f"wrong answer of {workflow}")

    await asyncio.gather(*(one(runs // at_once) for _ in range(at_once)))
    return time.perf_counter() - started


def _bare_asgi() -> float:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "bench.bare_asgi:app", "--port", str(port), "--log-level", "error"]
    )
    try:
        time.sleep(1.5)
        request = post("127.0.0.1", port, "/", "none", '{"input":{"n":1}}')
        return uvloop.run(load("127.0.0.1", port, request, 32, raw.SECONDS, b'"n":4')).per_second
    finally:
        process.terminate()
        process.wait()


async def _database_limits(home: Path) -> dict[str, float]:
    postgres = EmbeddedPostgres(home)
    dsn = await postgres.start()
    try:
        return {
            "commits, 1 connection": await raw.commits(dsn, 1),
            "commits, 16 connections": await raw.commits(dsn, 16),
            "COPY rows": await raw.copied_rows(dsn),
            "asyncio tasks": await raw.tasks(),
        }
    finally:
        await postgres.stop()


def _measure(service: Service, slow_port: int, seconds: float, limits: dict[str, float]) -> list[Row]:
    for spec in _workflows(slow_port):
        service.workflow(spec)
    _closed_loop(service, "w1", 8, 1.0, '"n":4')  # warm up
    alone = _closed_loop(service, "w1", 1, seconds, '"n":4')
    crowd = _closed_loop(service, "w1", 32, seconds, '"n":4')
    fan = _closed_loop(service, "w2", 32, seconds, '"n":10')
    uvloop.run(_batch(service, "w3", 50, 50))
    waiting = min(uvloop.run(_batch(service, "w3", 200, 50)) for _ in range(3))
    pure = min(uvloop.run(_batch(service, "pure100", 100, 100)) for _ in range(3))
    effect = min(uvloop.run(_batch(service, "effect100", 100, 100)) for _ in range(3))
    asgi, commit = limits["bare ASGI"], limits["commits, 1 connection"]
    return [
        Row("3 steps, 1 caller: p50", alone.p50, "ms", "<= 3", 1000 / commit, "one commit"),
        Row("3 steps, 1 caller: p95", alone.p95, "ms", "", 1000 / commit, "one commit"),
        Row("3 steps, 32 callers", crowd.per_second, "workflows/s", ">= 1,500", asgi, "bare ASGI calls"),
        Row("3 steps, 32 callers: p95", crowd.p95, "ms", ""),
        Row("1 -> 10 -> 1, 32 callers", fan.per_second, "workflows/s", ">= 500", asgi, "bare ASGI calls"),
        Row("200 runs, 50 at once, 50 ms HTTP", 200 / waiting, "runs/s", ">= 700", 1000.0, "50 at once / 50 ms"),
        Row("pure steps, 100 runs", 10_000 / pure, "steps/s", ">= 10,000", limits["COPY rows"], "COPY rows"),
        Row(
            "steps with effects, 100 runs",
            10_000 / effect,
            "steps/s",
            ">= 10,000",
            limits["COPY rows"] / 2,
            "COPY rows / 2",
        ),
    ]


def _many_active(service: Service) -> list[Row]:
    """As many runs as wait on a server that does not answer."""
    callers, each = 20, 500
    port = free_port()
    with slow_server(port, 120_000):
        step = {"id": "wait", "node": "http.request", "with": {"url": f"http://127.0.0.1:{port}/"}}
        service.workflow({"name": "silent", "steps": [step]})
        before = service.memory_mb()
        request = post("127.0.0.1", service.port, "/api/v1/workflows/silent/execute", service.key, '{"input":{}}')
        uvloop.run(load("127.0.0.1", service.port, request, callers, 120, b'"status"', each))
        time.sleep(2)
        active = service.active_runs()
        return [
            Row("active runs waiting on HTTP", active, "runs", ">= 10,000", callers * each, "submitted"),
            Row("memory of each of them", (service.memory_mb() - before) * 1024 / active, "kB", ""),
        ]


def _start_and_memory(home: Path) -> tuple[Service, list[Row]]:
    service = Service(home)
    service.start()
    service.stop()
    warm = service.start()
    time.sleep(5)
    memory = service.memory_mb()
    return service, [
        Row("start, warm data directory", warm, "s", "<= 3"),
        Row("memory, idle, all processes", memory, "MB", "<= 450"),
    ]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=4.0, help="how long each closed loop runs")
    seconds = arguments.parse_args().seconds
    with tempfile.TemporaryDirectory(prefix="rfb") as directory:
        home = Path(directory)
        home.chmod(0o755)
        limits = asyncio.run(_database_limits(home / "raw"))
        limits["fdatasyncs"] = raw.fdatasyncs(home)
        limits["bare ASGI"] = _bare_asgi()
        slow_port = free_port()
        with slow_server(slow_port, 50):
            service, rows = _start_and_memory(home / "h")
            try:
                rows = [*_measure(service, slow_port, seconds, limits), *rows]
                rows += control_rates(service, limits)
                rows += _many_active(service)
            finally:
                stop = service.stop()
            rows.append(Row("stop on SIGTERM", stop, "s", "<= 5"))
        rows += _traces(home)
    _print(rows, limits)


def _traces(home: Path) -> list[Row]:
    rates = asyncio.run(trace_rates(home / "ch"))
    return [
        Row("traces, from the journal", rates.rows, "rows/s", ">= 50,000", rates.arrow, "prepared Arrow rows"),
        Row("traces, bulk import", rates.imported, "rows/s", ">= 100,000", rates.arrow, "prepared Arrow rows"),
    ]


def figure(value: float) -> str:
    """A figure as the table shows it."""
    return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"


def _print(rows: list[Row], limits: dict[str, float]) -> None:
    console = Console(width=140)
    table = Table(title="REFLUX, everything persisted, fsync on")
    for name, side in (
        ("what", "left"),
        ("value", "right"),
        ("unit", "left"),
        ("target", "left"),
        ("raw limit", "right"),
        ("of", "left"),
        ("ratio", "right"),
    ):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    for row in rows:
        ratio = "" if row.limit is None else f"{row.value / row.limit:.2f}"
        table.add_row(
            row.what,
            figure(row.value),
            row.unit,
            row.target,
            "" if row.limit is None else figure(row.limit),
            row.limit_name,
            ratio,
        )
    console.print(table)
    console.print("raw limits per second: " + ", ".join(f"{name} {figure(value)}" for name, value in limits.items()))


if __name__ == "__main__":
    main()
