"""`reflux cache`: results that are used again."""

from typing import Annotated

import typer

from api.cli.call import Call, command, group
from api.cli.output import print_json, print_table, say

app = group("cache", "See what is cached, and remove it. Alone: list.")


@app.command("list")
@command
def list_cache(call: Call) -> None:
    """Show how much is cached, by node."""
    found = call.server.get("/api/v1/cache")
    if call.as_json:
        print_json(found)
        return
    print_table(found["nodes"], ("node", "entries", "bytes", "oldest", "newest"), "Nothing is cached.")
    say(f"{found['hits']} hits and {found['misses']} misses since the server started")


@app.command("clear")
@command
def clear_cache(
    call: Call,
    node: Annotated[str | None, typer.Option(help="Results of this node.")] = None,
    workflow: Annotated[str | None, typer.Option(help="Results that runs of this workflow stored.")] = None,
    step: Annotated[str | None, typer.Option(help="Results of steps of this name.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All results.")] = False,
) -> None:
    """Remove cached results. Those that fit all that is given, or all with --all."""
    query = {"node": node, "workflow": workflow, "step": step, "all": "true" if everything else None}
    found = call.server.call("DELETE", "/api/v1/cache", query=query)
    call.tell(found, f"{found['removed']} cached results are removed")
