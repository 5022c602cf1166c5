"""Shows a run while it goes on: a live table on a terminal, a line for each change elsewhere."""

import asyncio
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import typer

from api.cli.call import Call, steps_of
from api.cli.failure import FAILED, GOES_ON, INTERRUPTED
from api.cli.follow import follow
from api.cli.output import cell, clean, console, note, print_json, print_table, say
from api.cli.progress import FINAL, RunProgress, StepProgress

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

_ENDED = ("completed", "failed", "cancelled")
_REFRESH_PER_SECOND = 8


def watch(call: Call, run: Mapping[str, Any], seconds: float | None) -> None:
    """Follow a run to its end, or for so many seconds; show it, and leave with the exit code that says how it is."""
    # Of a run that is over already a person sees the same: its events are still there.
    if run["status"] not in _ENDED or not call.as_json:
        try:
            asyncio.run(_follow(call, run, seconds))
        except KeyboardInterrupt:
            note(f"The run goes on; see it again with: reflux runs watch {run['id']}")
            raise typer.Exit(INTERRUPTED) from None
        run = call.server.get(f"/api/v1/runs/{run['id']}")
    show_end(call, run)


def show_end(call: Call, run: Mapping[str, Any]) -> None:
    """Show how a run stands now, and leave with its exit code."""
    if call.as_json:
        print_json(run)
    else:
        _print(run)
    if run["status"] != "completed":
        raise typer.Exit(FAILED if run["status"] in _ENDED else GOES_ON)


def print_run(run: Mapping[str, Any]) -> None:
    """A run with its steps."""
    say(f"Run {run['id']} of {run['workflow']} (version {run['workflow_version']}): {run['status']}")
    print_table(steps_of(run), ("step", "status", "attempts", "seconds", "detail"), "It has no steps.")
    for step in run["steps"]:
        if step["status"] == "outcome_unknown":
            note(
                f"Say what became of it: reflux runs resolve {run['id']} {step['id']} --outcome succeeded|failed|retry"
            )
    _print_result(run)


def _print(run: Mapping[str, Any]) -> None:
    if run["status"] in _ENDED:
        say(f"Run {run['id']} {run['status']}")
        _print_result(run)
    else:
        say(f"Run {run['id']} is {run['status']} and goes on; see it with: reflux runs watch {run['id']}")


def _print_result(run: Mapping[str, Any]) -> None:
    if run.get("error"):
        error = run["error"]
        where = f"step {error['step']}: " if error.get("step") else ""
        say(f"{where}{error['class']}: {error['message']}")
    if run.get("outputs"):
        print_json(run["outputs"])


async def _follow(call: Call, run: Mapping[str, Any], seconds: float | None) -> None:
    progress = RunProgress({step["id"]: StepProgress(step["id"]) for step in run["steps"]})
    live = None if call.as_json or not sys.stderr.isatty() else _live(progress)
    shown: AbstractContextManager[Any] = live or nullcontext()
    try:
        with shown:
            async with asyncio.timeout(seconds):
                async for event in follow(call.server, run["id"]):
                    changed = progress.apply(event)
                    if changed is not None and live is None and not call.as_json:
                        note(_line(changed))
    except TimeoutError:
        return


def _line(step: StepProgress) -> str:
    parts = [f"{step.id:<20} {step.status:<15}", _attempts(step), _duration(step), step.detail]
    return "  ".join(part for part in parts if part).rstrip()


def _live(progress: RunProgress) -> "Live":
    from rich.live import Live

    return Live(
        console=console(sys.stderr), get_renderable=lambda: _table(progress), refresh_per_second=_REFRESH_PER_SECOND
    )


def _table(progress: RunProgress) -> "Table":
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("step", "status", "done", "time", ""):
        made.add_column(name, overflow="fold")
    for step in progress.steps.values():
        made.add_row(
            cell(step.id),
            cell(step.status),
            cell(_attempts(step) or None),
            cell(_duration(step) or None),
            clean(step.detail).replace("[", r"\["),
        )
    return made


def _attempts(step: StepProgress) -> str:
    if step.size is not None:
        return f"{step.finished} of {step.size} elements"
    return f"{step.attempts} attempt{'s' if step.attempts > 1 else ''}" if step.attempts else ""


def _duration(step: StepProgress) -> str:
    milliseconds = step.milliseconds
    if step.status not in FINAL and step.began is not None:
        milliseconds = (time.monotonic() - step.began) * 1000
    if milliseconds is None:
        return ""
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.1f} s"
