"""`reflux keys`: who may call, and as what."""

from typing import Annotated

import typer

from api.cli.call import Call, command, group
from api.cli.output import note, print_json, say
from core.account import Role

app = group("keys", "Make and revoke API keys. Alone: list.")


@app.command("list")
@command
def list_keys(call: Call) -> None:
    """List all API keys, without the keys themselves."""
    found = call.server.get("/api/v1/api-keys")
    columns = (
        "id", "name", "role", "prefix",
        ("last used", lambda row: row["last_used_at"]), ("revoked", lambda row: row["revoked_at"]),
    )  # fmt: skip
    call.show(found, *columns)


@app.command("create")
@command
def create_key(
    call: Call,
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    role: Annotated[Role, typer.Option(help="What it may do; each role may do all that the ones before it may.")],
) -> None:
    """Make an API key. It is shown this once."""
    found = call.server.call("POST", "/api/v1/api-keys", body={"name": name, "role": role.value})
    if call.as_json:
        print_json(found)
    else:
        note(f"Key {found['id']} for {found['name']} ({found['role']}), shown this once:")
        say(found["key"])


@app.command("revoke")
@command
def revoke_key(call: Call, key: Annotated[str, typer.Argument(metavar="ID", help="The key's id.")]) -> None:
    """Refuse a key from now on."""
    call.server.call("DELETE", f"/api/v1/api-keys/{key}")
    call.tell({"revoked": key}, f"Key {key} is revoked")
