"""`reflux events`: send and list."""

from typing import Annotated, Any

import typer

from api.cli.call import Call, Cursor, Limit, command, group
from api.cli.document import read_value

app = group("events", "Send and list events. Alone: list.")


@app.command("list")
@command
def list_events(
    call: Call,
    name: Annotated[str | None, typer.Option(help="Events of this name.")] = None,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> None:
    """List events, newest first."""
    found = call.server.get("/api/v1/events", name=name, limit=limit, cursor=cursor)
    columns = (
        ("received", lambda row: row["received_at"]), "name", "payload",
        ("dedupe key", lambda row: row["dedupe_key"]), ("by", lambda row: row["created_by"]), "id",
    )  # fmt: skip
    call.show(found, *columns)


@app.command("send")
@command
def send_event(
    call: Call,
    name: Annotated[str, typer.Argument(help="The event's name, such as order.paid.")],
    payload: Annotated[str | None, typer.Option(help="JSON, @file, or - for standard input.")] = None,
    dedupe_key: Annotated[str | None, typer.Option(help="Within 24 hours the same key is the same event.")] = None,
) -> None:
    """Send an event: it wakes every run that waits for it, and starts what it triggers."""
    body: dict[str, Any] = {"name": name}
    if payload is not None:
        body["payload"] = read_value(payload, "--payload")
    if dedupe_key is not None:
        body["dedupe_key"] = dedupe_key
    found = call.server.call("POST", "/api/v1/events", body=body)
    if found["duplicate"]:
        call.tell(found, f"Event {found['id']} had this key before; nothing is done")
    else:
        call.tell(found, f"Event {found['id']}: {found['woken']} woken, {len(found['started'])} started")
