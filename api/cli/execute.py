"""`reflux execute`: run a workflow and follow it."""

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from api.cli.call import Call, command
from api.cli.document import is_file, media_type, read_fields, read_file, read_texts, read_value
from api.cli.failure import CommandError
from api.cli.watch import show_end, watch


@command
def execute(
    call: Call,
    workflow: Annotated[str, typer.Argument(metavar="FILE_OR_NAME", help="A YAML or JSON file, or a name or id.")],
    value: Annotated[str | None, typer.Option("--input", help="JSON, @file, or - for standard input.")] = None,
    fields: Annotated[list[str] | None, typer.Option("--input-field", help="name=value; may be repeated.")] = None,
    context: Annotated[list[str] | None, typer.Option("--context", help="name=value; may be repeated.")] = None,
    unit_key: Annotated[str, typer.Option(help="What sticky decisions are made for.")] = "",
    session: Annotated[str, typer.Option(help="Whose variables of the scope `session` the run sees.")] = "",
    priority: Annotated[int | None, typer.Option(min=0, max=9, help="Instead of the workflow's; 9 is first.")] = None,
    breakpoint_: Annotated[
        list[str] | None, typer.Option("--breakpoint", help="A step to stop before; may be repeated.")
    ] = None,
    wait: Annotated[float | None, typer.Option(min=0, help="Seconds to wait; default: until the end.")] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="The same key never starts a second run.")] = None,
) -> None:
    """Run a workflow. A file is stored first, under the name that it gives itself.

    Leaves with 0 when the run completed, 1 when it failed or was cancelled, 2 when something in the command or the
    workflow is wrong, 3 when the server cannot be reached, 4 when the run goes on after --wait.
    """
    body: dict[str, Any] = {"input": _input(value, fields or []), "context": read_texts(context or [], "--context")}
    more = {"unit_key": unit_key, "session": session, "priority": priority, "breakpoints": breakpoint_}
    body |= {name: one for name, one in more.items() if one not in ("", None)}
    name = _store(call, Path(workflow)) if is_file(workflow) else workflow
    headers = {"Idempotency-Key": idempotency_key} if idempotency_key else None
    run = call.server.call("POST", f"/api/v1/workflows/{quote(name, safe='')}/execute", body=body, headers=headers)
    if wait == 0:
        show_end(call, run)
    else:
        watch(call, run, wait)


def _store(call: Call, path: Path) -> str:
    content = read_file(path)
    stored = call.server.call("POST", "/api/v1/workflows", content=content, headers={"Content-Type": media_type(path)})
    return str(stored["id"])


def _input(value: str | None, fields: list[str]) -> Any:
    given = {} if value is None else read_value(value, "--input")
    if not fields:
        return given
    if not isinstance(given, dict):
        raise CommandError("--input-field adds to an object, and --input is none")
    return {**given, **read_fields(fields, "--input-field")}
