"""`reflux nodes`: the catalogue, versions, and routes."""

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from api.cli.call import Call, Cursor, Limit, command, group
from api.cli.document import read_file
from api.cli.failure import CommandError
from api.cli.output import as_text, print_json, print_table, say

app = group("nodes", "Read the catalogue of nodes, make versions, route traffic between them. Alone: list.")

Node = Annotated[str, typer.Argument(metavar="NODE", help="Such as http.request.")]
Version = Annotated[str, typer.Argument(metavar="VERSION", help="Such as 1.0.0.")]
File = Annotated[Path, typer.Argument(help="A YAML or JSON file.")]


@app.command("list")
@command
def list_nodes(
    call: Call, search: Annotated[str | None, typer.Option(help="Part of name, title or category.")] = None
) -> None:
    """List all nodes, at their newest version."""
    found = call.server.get("/api/v1/nodes", search=search)
    call.show(found, "name", "version", "title", "category", "effect", "status")


@app.command("show")
@command
def show_node(call: Call, name: Node) -> None:
    """Read a node: what it does, and the parameters that it takes."""
    found = call.server.get(_path(name))
    if call.as_json:
        print_json(found)
        return
    say(f"{found['name']} {found['version']} ({found['effect']}): {found['title']}")
    if found["description"]:
        say(found["description"])
    print_table(_parameters(found["input_schema"]), ("parameter", "type", "required", "description"), "No parameters.")


@app.command("create")
@command
def create_version(call: Call, file: File) -> None:
    """Make a node version of another node, with parameters filled in."""
    found = call.server.call("POST", "/api/v1/nodes", body=_document(file))
    call.tell(found, f"{found['name']}@{found['version']} is there ({found['status']})")


@app.command("versions")
@command
def list_versions(call: Call, name: Node) -> None:
    """List the versions of a node, newest first."""
    call.show(call.server.get(f"{_path(name)}/versions"), "version", "label", "title", "effect", "status")


@app.command("version")
@command
def show_version(call: Call, name: Node, version: Version) -> None:
    """Read a node version in full, as JSON."""
    print_json(call.server.get(_path(name, version)))


@app.command("promote")
@command
def promote_version(call: Call, name: Node, version: Version) -> None:
    """Move a version one stage: draft, staging, production."""
    found = call.server.call("POST", f"{_path(name, version)}/promote")
    call.tell(found, f"{name}@{version} is in {found['status']}")


@app.command("deprecate")
@command
def deprecate_version(call: Call, name: Node, version: Version) -> None:
    """Take a version out of use; steps that name it exactly still get it."""
    found = call.server.call("POST", f"{_path(name, version)}/deprecate")
    call.tell(found, f"{name}@{version} is deprecated")


@app.command("route")
@command
def show_route(call: Call, name: Node) -> None:
    """Read a node's route, and the state of its breakers."""
    found = call.server.get(f"{_path(name)}/route")
    if call.as_json:
        print_json(found)
        return
    say(f"Route of {name}, revision {found['revision']}, by {found['created_by']} at {found['created_at']}")
    columns = ("version", "label", "weight", "fallback", "timeout", ("breaker", _state))
    print_table(found["arms"], columns, "No arms.")
    print_table(found["rules"], ("when", "weights"), "No rules.")


@app.command("set-route")
@command
def put_route(call: Call, name: Node, file: File) -> None:
    """Put a route in force, for the next step that starts."""
    found = call.server.call("PUT", f"{_path(name)}/route", body=_document(file))
    call.tell(found, f"Revision {found['revision']} of the route of {name} is in force")


@app.command("delete-route")
@command
def delete_route(call: Call, name: Node) -> None:
    """Take a node's route away."""
    call.server.call("DELETE", f"{_path(name)}/route")
    call.tell({"deleted": name}, f"{name} has no route any more")


@app.command("route-revisions")
@command
def list_revisions(call: Call, name: Node, limit: Limit = 20, cursor: Cursor = None) -> None:
    """List the revisions of a node's route, newest first."""
    found = call.server.get(f"{_path(name)}/route/revisions", limit=limit, cursor=cursor)
    columns = ("revision", ("weights", _weights), "reverted_to", "created_at", "created_by")
    call.show(found, *columns, empty="There are none.")


@app.command("revert-route")
@command
def revert_route(
    call: Call,
    name: Node,
    revision: Annotated[int | None, typer.Option(min=1, help="Default: the one before the present one.")] = None,
) -> None:
    """Put an earlier revision of a route in force again."""
    found = call.server.call("POST", f"{_path(name)}/route/revert", body={"revision": revision})
    call.tell(found, f"Revision {found['revision']} of the route of {name} is in force")


def _path(name: str, version: str | None = None) -> str:
    path = f"/api/v1/nodes/{quote(name, safe='')}"
    return path if version is None else f"{path}/versions/{quote(version, safe='')}"


def _document(file: Path) -> Any:
    import core.json
    import core.yaml
    from core.json import JsonError
    from core.yaml import YamlError

    raw = read_file(file)
    try:
        return core.json.decode(raw) if file.suffix == ".json" else core.yaml.decode(raw)
    except (JsonError, YamlError) as error:
        raise CommandError(f"{file} cannot be read: {error}") from None


def _state(arm: Any) -> str | None:
    breaker = arm.get("breaker")
    if breaker is None:
        return None
    until = f" until {breaker['until']}" if breaker["until"] else ""
    return f"{breaker['state']}{until} ({breaker['failures']} of {breaker['calls']} failed)"


def _weights(revision: Any) -> dict[str, float] | str:
    return {arm["version"]: arm["weight"] for arm in revision["arms"]} or "no route"


def _parameters(schema: dict[str, Any]) -> list[dict[str, Any]]:
    required = schema.get("required", [])
    return [
        {
            "parameter": name,
            "type": _type(one),
            "required": name in required,
            "description": " ".join(str(one.get("description", "")).split()),
        }
        for name, one in schema.get("properties", {}).items()
    ]


def _type(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return " | ".join(as_text(one) for one in schema["enum"])
    if "anyOf" in schema:
        return " | ".join(dict.fromkeys(_type(one) for one in schema["anyOf"]))
    kind = schema.get("type", "any")
    return " | ".join(kind) if isinstance(kind, list) else str(kind)
