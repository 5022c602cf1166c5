"""`reflux variables`: values that runs share."""

import json
from typing import Annotated
from urllib.parse import quote

import typer

from api.cli.call import Call, Cursor, Limit, command, group
from api.cli.document import read_value
from api.cli.failure import CommandError

app = group("variables", "Values that runs share. Alone: list.")

Name = Annotated[str, typer.Argument(help="Letters, digits, _, . and -, such as region.")]
Workflow = Annotated[str | None, typer.Option(help="A variable of this workflow.")]
Session = Annotated[str | None, typer.Option(help="A variable of this session.")]


@app.command("list")
@command
def list_variables(
    call: Call,
    scope: Annotated[str | None, typer.Option(help="global, workflow or session.")] = None,
    workflow: Workflow = None,
    session: Session = None,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> None:
    """List variables that outlive a run."""
    found = call.server.get(
        "/api/v1/variables", scope=scope, workflow=workflow, session=session, limit=limit, cursor=cursor
    )
    call.show(
        found,
        "name",
        ("value", lambda row: json.dumps(row["value"], ensure_ascii=False)),
        ("of", lambda row: row["workflow"] or row["session"] or row["scope"]),
        ("expires", lambda row: row["expires_at"] or ""),
        ("by", lambda row: row["updated_by"]),
    )


@app.command("set")
@command
def set_variable(
    call: Call,
    name: Name,
    value: Annotated[str, typer.Argument(help="JSON, `@file` or `-`; what is no JSON is taken as text.")],
    workflow: Workflow = None,
    session: Session = None,
    ttl: Annotated[str | None, typer.Option(help="How long it lives, such as 30m or 2d; default: it stays.")] = None,
) -> None:
    """Set a variable: for all workflows, or for a workflow or a session."""
    body = {"value": _value(value), **_whose(workflow, session), **({} if ttl is None else {"ttl": ttl})}
    found = call.server.call("PUT", f"/api/v1/variables/{quote(name, safe='')}", body=body)
    call.tell(found, f"Variable {name} is set; use it as {{{{ {_reference(name)} }}}}")


@app.command("delete")
@command
def delete_variable(call: Call, name: Name, workflow: Workflow = None, session: Session = None) -> None:
    """Delete a variable."""
    call.server.send("DELETE", f"/api/v1/variables/{quote(name, safe='')}", query=_whose(workflow, session))
    call.tell({"deleted": name}, f"Variable {name} is deleted")


def _whose(workflow: str | None, session: str | None) -> dict[str, str]:
    if workflow is not None and session is not None:
        raise CommandError("a variable belongs to a workflow or to a session; give one of the two")
    if workflow is not None:
        return {"scope": "workflow", "workflow": workflow}
    return {"scope": "session", "session": session} if session is not None else {"scope": "global"}


def _value(text: str) -> object:
    if text == "-" or text.startswith("@"):
        return read_value(text, "the value")
    try:
        return read_value(text, "the value")
    except CommandError:
        return text


def _reference(name: str) -> str:
    return f"vars.{name}" if name.isidentifier() else f'vars["{name}"]'
