"""`reflux traces`: attempts, and those of other systems."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.call import Call, Cursor, Limit, Since, Until, command, group
from api.cli.document import read_file
from api.cli.failure import WRONG
from api.cli.output import print_json, print_table, say
from core.trace import TraceStatus

app = group("traces", "Read the traces of attempts, and import those of other systems. Alone: list.")

_PART_BYTES = 8 * 1024 * 1024
_SHOWN_FAULTS = 100


@app.command("list")
@command
def list_traces(
    call: Call,
    run: Annotated[str | None, typer.Option(help="A run's id.")] = None,
    node: Annotated[str | None, typer.Option(help="A node's name.")] = None,
    workflow: Annotated[str | None, typer.Option(help="A workflow's name.")] = None,
    step: Annotated[str | None, typer.Option(help="A step's id.")] = None,
    status: Annotated[TraceStatus | None, typer.Option(help="How the attempt ended.")] = None,
    error_class: Annotated[str | None, typer.Option(help="Such as timeout or rate_limited.")] = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> None:
    """List attempts, newest first."""
    found = call.server.get(
        "/api/v1/traces",
        run_id=run,
        node=node,
        workflow=workflow,
        step_id=step,
        status=status.value if status else None,
        error_class=error_class,
        **{"from": since, "to": until},
        limit=limit,
        cursor=cursor,
    )
    columns = (
        "start", "workflow", ("step", lambda row: row["step_id"]), "attempt", "node", "status",
        ("ms", lambda row: row["latency_ms"]), ("error", lambda row: row.get("error_message", "")),
        ("run", lambda row: row["run_id"]),
    )  # fmt: skip
    call.show(found, *columns)


@app.command("import")
@command
def import_traces(call: Call, file: Annotated[Path, typer.Argument(help="A .json array, or JSON lines.")]) -> None:
    """Bring in traces of another system. The same rows again change nothing.

    Leaves with 2 when rows were rejected; the good rows are kept.
    """
    total: Counter[str] = Counter()
    faults: list[dict[str, Any]] = []
    for lines_before, part in _parts(file):
        report = call.server.call("POST", "/api/v1/traces", content=part, headers={"Content-Type": _media_type(file)})
        total.update({name: report[name] for name in ("inserted", "duplicates", "rejected")})
        faults += [{**one, "line": one["line"] + lines_before} for one in report["faults"]]
    answer = {
        "inserted": total["inserted"],
        "duplicates": total["duplicates"],
        "rejected": total["rejected"],
        "faults": faults[:_SHOWN_FAULTS],
    }
    if call.as_json:
        print_json(answer)
    else:
        say(f"{total['inserted']} inserted, {total['duplicates']} known already, {total['rejected']} rejected")
        if faults:
            print_table(faults[:_SHOWN_FAULTS], ("line", "field", "reason"), "")
    if total["rejected"]:
        raise typer.Exit(WRONG)


def _media_type(file: Path) -> str:
    return "application/json" if file.suffix == ".json" else "application/x-ndjson"


def _parts(file: Path) -> Iterator[tuple[int, bytes]]:
    """The file in pieces that the server takes, each with the number of lines before it. An array is one piece."""
    content = read_file(file)
    if content.lstrip()[:1] == b"[" or len(content) <= _PART_BYTES:
        yield 0, content
        return
    start = lines = 0
    while start < len(content):
        end = content.rfind(b"\n", start, start + _PART_BYTES) + 1
        part = content[start : end if end > start else len(content)]
        yield lines, part
        lines += part.count(b"\n")
        start += len(part)
