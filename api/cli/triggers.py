"""`reflux triggers`: what starts runs."""

from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import quote

import typer

from api.cli.call import Call, Cursor, Limit, command, group
from api.cli.document import read_value
from api.cli.failure import CommandError
from api.cli.output import print_json, say

app = group("triggers", "What starts runs: clock, webhooks, events, people. Alone: list.")

TriggerId = Annotated[str, typer.Argument(metavar="TRIGGER", help="The trigger's id.")]


class Kind(StrEnum):
    """What a trigger listens to."""

    CRON = "cron"
    WEBHOOK = "webhook"
    EVENT = "event"
    MANUAL = "manual"


@app.command("list")
@command
def list_triggers(
    call: Call,
    workflow: Annotated[str | None, typer.Option(help="Id or name of a workflow.")] = None,
    kind: Annotated[Kind | None, typer.Option("--type", help="One kind only.")] = None,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> None:
    """List triggers, newest first."""
    found = call.server.get(
        "/api/v1/triggers", workflow=workflow, type=kind.value if kind else None, limit=limit, cursor=cursor
    )
    columns = (
        "workflow", "name", "type", ("what", _what), "paused", ("next", lambda row: row["next_at"]), "id",
    )  # fmt: skip
    call.show(found, *columns, empty="There are no triggers. Write some under `triggers` in a workflow.")


@app.command("show")
@command
def show_trigger(call: Call, trigger: TriggerId) -> None:
    """Read a trigger."""
    found = call.server.get(_path(trigger))
    if call.as_json:
        print_json(found)
        return
    import yaml

    origin = "from the spec" if found["from_spec"] else "beside the spec"
    state = "paused" if found["paused"] else f"next {found['next_at']}" if found["next_at"] else "listening"
    say(f"# {found['name']} of {found['workflow']}, {origin}, {state} (id {found['id']})")
    say(yaml.safe_dump(found["config"], sort_keys=False, allow_unicode=True).rstrip())


@app.command("create")
@command
def create_trigger(
    call: Call,
    workflow: Annotated[str, typer.Argument(metavar="WORKFLOW", help="The workflow's name or id.")],
    config: Annotated[str, typer.Argument(metavar="JSON", help="What a spec says of it: JSON, @file, or -.")],
) -> None:
    """Make a trigger beside the spec of its workflow."""
    wanted = read_value(config, "JSON")
    if not isinstance(wanted, dict):
        raise CommandError("a trigger is a JSON object")
    found = call.server.call("POST", "/api/v1/triggers", body={**wanted, "workflow": workflow})
    call.tell(found, f"Trigger {found['name']} of {found['workflow']} is there (id {found['id']})")


@app.command("delete")
@command
def delete_trigger(call: Call, trigger: TriggerId) -> None:
    """Delete a trigger that was made beside a spec; its history stays."""
    call.server.call("DELETE", _path(trigger))
    call.tell({"deleted": trigger}, f"Trigger {trigger} is deleted")


@app.command("pause")
@command
def pause_trigger(call: Call, trigger: TriggerId) -> None:
    """Fire no more until it is resumed."""
    found = call.server.call("POST", f"{_path(trigger)}/pause")
    call.tell(found, f"Trigger {found['name']} is paused")


@app.command("resume")
@command
def resume_trigger(call: Call, trigger: TriggerId) -> None:
    """Fire again."""
    found = call.server.call("POST", f"{_path(trigger)}/resume")
    after = f"; it fires next at {found['next_at']}" if found["next_at"] else ""
    call.tell(found, f"Trigger {found['name']} is resumed{after}")


@app.command("fire")
@command
def fire_trigger(
    call: Call,
    trigger: TriggerId,
    value: Annotated[str | None, typer.Option("--input", help="JSON, @file, or - for standard input.")] = None,
) -> None:
    """Fire by hand, also when it is paused."""
    body: dict[str, Any] = {} if value is None else {"input": read_value(value, "--input")}
    found = call.server.call("POST", f"{_path(trigger)}/fire", body=body)
    call.tell(found, f"Run {found['run_id']} is {found['status']}")


@app.command("firings")
@command
def list_firings(call: Call, trigger: TriggerId, limit: Limit = 20, cursor: Cursor = None) -> None:
    """List what a trigger fired, newest first."""
    found = call.server.get(f"{_path(trigger)}/firings", limit=limit, cursor=cursor)
    columns = (
        "at", ("for", lambda row: row["scheduled_for"]), "status", ("run", lambda row: row["run_id"]), "reason",
    )  # fmt: skip
    call.show(found, *columns, empty="It has not fired yet.")


@app.command("preview")
@command
def preview_trigger(
    call: Call, trigger: TriggerId, count: Annotated[int, typer.Option(min=1, max=100, help="How many times.")] = 5
) -> None:
    """Say when a cron trigger will fire."""
    found = call.server.get(f"{_path(trigger)}/preview", count=count)
    if call.as_json:
        print_json(found)
        return
    for one in found["times"]:
        say(one)


def _what(row: Any) -> str:
    config = row["config"]
    return str(config.get("schedule") or row.get("url") or config.get("event") or config.get("name") or "")


def _path(trigger: str) -> str:
    return f"/api/v1/triggers/{quote(trigger, safe='')}"
