"""`reflux runs`: list, read, watch, export, cancel. What else can be asked of a run is in `api.cli.operate`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from api.cli import operate
from api.cli.call import Call, Cursor, Limit, Since, Until, command, group
from api.cli.document import read_value
from api.cli.failure import FAILED, CommandError
from api.cli.operate import path_of
from api.cli.output import print_json, say
from api.cli.watch import print_run, watch
from core.run import RunStatus

app = group("runs", "List, read, watch, export and operate runs. Alone: list.")

RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")]


class Outcome(StrEnum):
    """What became of an attempt."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    RETRY = "retry"


class Action(StrEnum):
    """What to do to many runs."""

    CANCEL = "cancel"
    PAUSE = "pause"
    RESUME = "resume"
    RESTART = "restart"


class Format(StrEnum):
    """How a run is written."""

    JSON = "json"
    CSV = "csv"


@app.command("list")
@command
def list_runs(
    call: Call,
    workflow: Annotated[str | None, typer.Option(help="Id or name of a workflow.")] = None,
    status: Annotated[list[RunStatus] | None, typer.Option(help="May be repeated.")] = None,
    since: Since = None,
    until: Until = None,
    search: Annotated[str | None, typer.Option(help="Part of the workflow's name, or an id.")] = None,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> None:
    """List runs, newest first."""
    found = call.server.get(
        "/api/v1/runs",
        workflow=workflow,
        status=[one.value for one in status or []],
        **{"from": since, "to": until},
        search=search,
        limit=limit,
        cursor=cursor,
    )
    columns = ("id", "workflow", "status", ("created", lambda row: row["created_at"]), ("error", _error))
    call.show(found, *columns, empty="There are no runs. Start one with: reflux execute FILE")


@app.command("show")
@command
def show_run(call: Call, run: RunId) -> None:
    """Read a run with its steps."""
    found = call.server.get(path_of(run))
    if call.as_json:
        print_json(found)
    else:
        print_run(found)


@app.command("events")
@command
def list_events(
    call: Call,
    run: RunId,
    limit: Limit = 100,
    cursor: Annotated[int, typer.Option(min=0, help="Go on after the event with this number.")] = 0,
) -> None:
    """Read the run's journal, oldest first."""
    found = call.server.get(f"{path_of(run)}/events", limit=limit, cursor=cursor)
    call.show(found, "seq", "at", "type", ("step", lambda row: row.get("step_id")), "item", "attempt", "data")


@app.command("watch")
@command
def watch_run(
    call: Call,
    run: RunId,
    wait: Annotated[float | None, typer.Option(min=0, help="Seconds to wait; default: until the end.")] = None,
) -> None:
    """Follow a run until it ends. The exit code is that of `reflux execute`."""
    watch(call, call.server.get(path_of(run)), wait)


@app.command("cancel")
@command
def cancel_run(call: Call, run: RunId, reason: Annotated[str, typer.Option(help="Why.")] = "") -> None:
    """Cancel a run."""
    found = call.server.call("POST", f"{path_of(run)}/cancel", body={"reason": reason})
    call.tell(found, f"Run {found['id']} is {found['status']}")


@app.command("export")
@command
def export_run(
    call: Call,
    run: RunId,
    form: Annotated[Format, typer.Option("--format", help="json: run and events; csv: one line an event.")] = (
        Format.JSON
    ),
    output: Annotated[Path | None, typer.Option(help="Write to this file instead of standard output.")] = None,
) -> None:
    """Write the whole run to standard output or a file."""
    content = call.server.send("GET", f"{path_of(run)}/export", query={"format": form.value}).content
    if output is None:
        typer.echo(content, nl=False)
        return
    try:
        output.write_bytes(content)
    except OSError as error:
        raise CommandError(f"cannot write {output}: {error.strerror}") from None
    call.tell({"file": str(output), "bytes": len(content)}, f"{len(content)} bytes written to {output}")


@app.command("resolve")
@command
def resolve_step(
    call: Call,
    run: RunId,
    step: Annotated[str, typer.Argument(help="The step that waits for its outcome to be told.")],
    outcome: Annotated[Outcome, typer.Option(help="What became of the attempt; retry: run it again.")],
    output: Annotated[str | None, typer.Option(help="The step's output: JSON, @file, or -.")] = None,
    item: Annotated[int | None, typer.Option(min=0, help="The element, for a step with `foreach`.")] = None,
) -> None:
    """Say what became of an attempt whose outcome is unknown."""
    body: dict[str, Any] = {"outcome": outcome.value}
    if output is not None:
        body["output"] = read_value(output, "--output")
    if item is not None:
        body["item"] = item
    found = call.server.call("POST", f"{path_of(run)}/steps/{quote(step, safe='')}/resolve", body=body)
    if call.as_json:
        print_json(found)
    else:
        say(f"Step {step} is told: {outcome.value}. Run {found['id']} is {found['status']}")


@app.command("bulk")
@command
def act_on_runs(
    call: Call,
    action: Annotated[Action, typer.Argument(help="What to do to each.")],
    run: Annotated[list[str] | None, typer.Option(help="A run's id; may be repeated. Instead of the filters.")] = None,
    workflow: Annotated[str | None, typer.Option(help="Id or name of a workflow.")] = None,
    status: Annotated[list[RunStatus] | None, typer.Option(help="May be repeated. Default: fits the action.")] = None,
    since: Since = None,
    until: Until = None,
    search: Annotated[str | None, typer.Option(help="Part of the workflow's name, or an id.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All runs that the action makes sense for.")] = False,
    reason: Annotated[str, typer.Option(help="Why.")] = "",
    cursor: Cursor = None,
) -> None:
    """Cancel, pause, resume or restart up to 100 runs. Leaves with 1 when one of them refuses."""
    filters = {
        "workflow": workflow,
        "status": [one.value for one in status] if status else None,
        "from": since,
        "to": until,
        "search": search,
    }
    given = {name: value for name, value in filters.items() if value is not None}
    if not (run or given or every):
        raise CommandError("say which runs: --run, a filter, or --all")
    body: dict[str, Any] = {"action": action.value, "reason": reason}
    body |= {"run_ids": run} if run else {"filter": {**given, **({"cursor": cursor} if cursor else {})}}
    found = call.server.call("POST", "/api/v1/runs/bulk", body=body)
    call.show(
        found,
        ("run", lambda row: row["run_id"]),
        ("done", lambda row: row["ok"]),
        ("new run", lambda row: row.get("restarted_as")),
        ("error", lambda row: (row.get("error") or {}).get("detail")),
        empty="There are no such runs.",
    )
    if not all(one["ok"] for one in found["items"]):
        raise typer.Exit(FAILED)


operate.add_to(app)


def _error(row: Any) -> str:
    error = row.get("error")
    return f"{error['class']}: {error['message']}"[:120] if error else ""
