"""`reflux nodes`: the catalogue."""

from typing import Annotated, Any
from urllib.parse import quote

import typer

from api.cli.call import Call, command, group
from api.cli.output import as_text, print_json, print_table, say

app = group("nodes", "Read the catalogue of nodes. Alone: list.")


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
def show_node(call: Call, name: Annotated[str, typer.Argument(help="Such as http.request.")]) -> None:
    """Read a node: what it does, and the parameters that it takes."""
    found = call.server.get(f"/api/v1/nodes/{quote(name, safe='')}")
    if call.as_json:
        print_json(found)
        return
    say(f"{found['name']} {found['version']} ({found['effect']}): {found['title']}")
    if found["description"]:
        say(found["description"])
    print_table(_parameters(found["input_schema"]), ("parameter", "type", "required", "description"), "No parameters.")


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
