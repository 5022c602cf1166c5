"""`reflux audit`: who did what."""

from typing import Annotated

import typer

from api.cli.call import Call, Cursor, Limit, command, group

app = group("audit", "Who did what. Alone: list.")


@app.command("list")
@command
def list_audit(
    call: Call,
    action: Annotated[str | None, typer.Option(help="Such as workflow.publish.")] = None,
    target: Annotated[str | None, typer.Option(help="What it was done to.")] = None,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> None:
    """List what was done, newest first."""
    found = call.server.get("/api/v1/audit", action=action, target=target, limit=limit, cursor=cursor)
    call.show(found, "at", "actor", "action", "target", "detail")
