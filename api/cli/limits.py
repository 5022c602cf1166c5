"""`reflux limits`: how much of a node there may be, and what is waited for."""

from typing import Annotated, Any
from urllib.parse import quote

import typer

from api.cli.call import Call, command, group
from api.cli.failure import CommandError

app = group("limits", "Limit nodes over all workflows, and see what is waited for. Alone: list.")

Node = Annotated[str, typer.Argument(help="Such as http.request.")]


@app.command("list")
@command
def list_limits(call: Call) -> None:
    """List the limits that are in use: of nodes, workflows and steps."""
    found = call.server.get("/api/v1/limits")
    call.show(
        found,
        "kind",
        ("name", _name),
        "in_use",
        "waiting",
        "max",
        ("rate", lambda row: _rate(row["rate"])),
        empty="No limit is in use at this moment.",
    )


@app.command("show")
@command
def show_limit(call: Call, node: Node) -> None:
    """Read the limit of a node."""
    found = call.server.get(_path(node))
    call.tell(found, _sentence(found))


@app.command("set")
@command
def set_limit(
    call: Call,
    node: Node,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Calls at once.")] = None,
    calls: Annotated[int | None, typer.Option(min=1, help="Calls in the time that --per says.")] = None,
    per: Annotated[str, typer.Option(help="A duration such as 1s or 1m.")] = "1s",
    burst: Annotated[int | None, typer.Option(min=1, help="Calls at once after a quiet time.")] = None,
) -> None:
    """Limit a node over all workflows. What is not given is not limited."""
    if burst is not None and calls is None:
        raise CommandError("--burst needs --calls")
    body: dict[str, Any] = {}
    if concurrency is not None:
        body["concurrency"] = concurrency
    if calls is not None:
        body["rate"] = {"calls": calls, "per": per} | ({} if burst is None else {"burst": burst})
    found = call.server.call("PUT", _path(node), body=body)
    call.tell(found, _sentence(found))


@app.command("delete")
@command
def delete_limit(call: Call, node: Node) -> None:
    """Take the limit of a node away."""
    call.server.call("DELETE", _path(node))
    call.tell({"deleted": node}, f"{node} has no limit any more")


def _path(node: str) -> str:
    return f"/api/v1/nodes/{quote(node, safe='')}/limits"


def _name(row: Any) -> str:
    if row["kind"] == "node":
        return str(row["node"])
    parts = [str(row["workflow"]), row["step"] or ""]
    return ".".join(filter(None, parts)) + (" (by key)" if row["keyed"] else "")


def _rate(rate: Any) -> str | None:
    return f"{rate['calls']} in {rate['per']}, {rate['burst']} at once" if rate else None


def _sentence(found: Any) -> str:
    parts = []
    if found["concurrency"] is not None:
        parts.append(f"at most {found['concurrency']} at once")
    if found["rate"] is not None:
        parts.append(f"at most {_rate(found['rate'])}")
    return f"{found['node']}: {' and '.join(parts)}"
