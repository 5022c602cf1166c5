"""`reflux up`: start the server, and let the person in."""

import os
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.connection import DEFAULT_URL, KEY_FILE
from api.cli.failure import FAILED, WRONG
from api.cli.output import note, say
from core.errors import Invalid, RefluxError

if TYPE_CHECKING:
    from api.services import Services


def up(
    host: Annotated[str | None, typer.Option(help="Address to listen on; REFLUX_HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on, 0 takes a free one; REFLUX_PORT.")] = None,
    home: Annotated[Path | None, typer.Option(help="Data directory; REFLUX_HOME.")] = None,
) -> None:
    """Start the server with everything that it needs. Ctrl+C or SIGTERM stops it."""
    from api.server import serve
    from infra.settings import load_settings

    try:
        serve(load_settings(host=host, port=port, home=home), _welcome)
    except Invalid as error:
        note(f"reflux: {error.detail}")
        raise typer.Exit(WRONG) from None
    except RefluxError as error:
        note(f"reflux: {error.detail}")
        raise typer.Exit(FAILED) from None


def _welcome(services: "Services", url: str) -> None:
    settings = services.settings
    say(f"REFLUX is ready at {url}")
    say(f"  API documentation: {url}/docs    data: {settings.home}")
    if services.first_key is not None:
        say(f"  API key (admin, shown this once): {services.first_key}")
        if settings.database_url is None:
            try:
                path = write_key(settings.home, services.first_key)
                say(f"  It is kept in {path} for the commands of this machine; delete the file if you do not want that")
            except OSError as error:
                note(f"reflux: the key could not be kept for the commands of this machine: {error.strerror}")
    place = "" if url == DEFAULT_URL else f" --url {url}"
    say(f"  Next, in another terminal: reflux execute FILE{place}    (tour: README.md, reference: reflux --help)")
    sys.stdout.flush()


def write_key(home: Path, key: str) -> Path:
    """Keep the first key where `reflux` finds it, readable by its owner alone. Raises OSError.

    A file of an earlier database is replaced as a whole: the new one is made beside it and is never anybody else's.
    """
    path = home / KEY_FILE
    fresh = home / f"{KEY_FILE}.{secrets.token_hex(8)}"
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
        file.write(f"{key}\n")
    fresh.replace(path)
    return path
