"""`reflux workflows`: make, read, change."""

from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from api.cli.call import Call, Cursor, Limit, command, group
from api.cli.document import media_type, read_file
from api.cli.output import print_json, say

app = group("workflows", "Make, read and change workflows. Alone: list.")

Name = Annotated[str, typer.Argument(metavar="WORKFLOW", help="The workflow's name or id.")]


@app.command("list")
@command
def list_workflows(
    call: Call,
    search: Annotated[str | None, typer.Option(help="Part of the name.")] = None,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> None:
    """List workflows, newest first."""
    found = call.server.get("/api/v1/workflows", search=search, limit=limit, cursor=cursor)
    columns = ("name", "version", "steps", ("updated", lambda row: row["updated_at"]), "id", "description")
    call.show(found, *columns, empty="There are no workflows. Make one with: reflux workflows create FILE")


@app.command("show")
@command
def show_workflow(
    call: Call,
    workflow: Name,
    version: Annotated[int | None, typer.Option(min=1, help="Default: the current one.")] = None,
) -> None:
    """Print a workflow's spec as YAML; with --json all that is known of it."""
    found = call.server.get(_path(workflow), version=version)
    if call.as_json:
        print_json(found)
    else:
        import yaml

        say(f"# {found['name']}, version {found['version']} of {found['current_version']} (id {found['id']})")
        say(yaml.safe_dump(found["spec"], sort_keys=False, allow_unicode=True).rstrip())


@app.command("create")
@command
def create_workflow(call: Call, file: Annotated[Path, typer.Argument(help="A YAML or JSON file.")]) -> None:
    """Store a workflow; one of that name gets a new version."""
    headers = {"Content-Type": media_type(file)}
    found = call.server.call("POST", "/api/v1/workflows", content=read_file(file), headers=headers)
    call.tell(found, f"Workflow {found['name']} is stored as version {found['version']} (id {found['id']})")


@app.command("versions")
@command
def list_versions(call: Call, workflow: Name) -> None:
    """List the versions of a workflow, newest first."""
    found = call.server.get(f"{_path(workflow)}/versions")
    columns = ("version", "current", ("created", lambda row: row["created_at"]), ("by", lambda row: row["created_by"]))
    call.show(found, *columns)


@app.command("publish")
@command
def publish_workflow(
    call: Call, workflow: Name, version: Annotated[int, typer.Argument(min=1, help="The version to make current.")]
) -> None:
    """Make a version the current one."""
    found = call.server.call("POST", f"{_path(workflow)}/publish", body={"version": version})
    call.tell(found, f"Version {found['version']} of {found['name']} is the current one")


@app.command("delete")
@command
def delete_workflow(call: Call, workflow: Name) -> None:
    """Delete a workflow; its runs stay."""
    call.server.call("DELETE", _path(workflow))
    call.tell({"deleted": workflow}, f"Workflow {workflow} is deleted")


def _path(workflow: str) -> str:
    return f"/api/v1/workflows/{quote(workflow, safe='')}"
