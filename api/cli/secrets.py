"""`reflux secrets`: values go in and never come out."""

import sys
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from api.cli.call import Call, command, group
from api.cli.document import read_file
from api.cli.failure import CommandError

app = group("secrets", "Keep secrets; their values are never shown. Alone: list.")

Name = Annotated[str, typer.Argument(help="Letters, digits and _, such as PAYMENT_TOKEN.")]


@app.command("list")
@command
def list_secrets(call: Call) -> None:
    """List the names of all secrets."""
    found = call.server.get("/api/v1/secrets")
    call.show(found, "name", ("updated", lambda row: row["updated_at"]), ("by", lambda row: row["updated_by"]))


@app.command("set")
@command
def set_secret(
    call: Call,
    name: Name,
    file: Annotated[Path | None, typer.Option("--from-file", help="Take the value from this file.")] = None,
) -> None:
    """Store or replace a secret.

    The value is asked for, or read from standard input when that is not a terminal. It is never an argument: those
    can be seen by everybody on the machine. One line break at the end is left out.
    """
    found = call.server.call("POST", "/api/v1/secrets", body={"name": name, "value": _value(file)})
    call.tell(found, f"Secret {found['name']} is stored; use it as {{{{ secrets.{found['name']} }}}}")


@app.command("delete")
@command
def delete_secret(call: Call, name: Name) -> None:
    """Delete a secret."""
    call.server.call("DELETE", f"/api/v1/secrets/{quote(name, safe='')}")
    call.tell({"deleted": name}, f"Secret {name} is deleted")


def _value(file: Path | None) -> str:
    if file is None and sys.stdin.isatty():
        return str(typer.prompt("Value", hide_input=True, confirmation_prompt=True, err=True))
    raw = sys.stdin.buffer.read() if file is None else read_file(file)
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise CommandError("the value is not UTF-8 text") from None
    return text.removesuffix("\n").removesuffix("\r")
