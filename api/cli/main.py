"""`reflux`: start the server, and talk to one."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from core.errors import RefluxError
from infra.settings import load_settings

app = typer.Typer(name="reflux", no_args_is_help=True, add_completion=False)


@app.callback()
def main() -> None:
    """Run workflows durably, and let them get better at it."""


@app.command()
def up(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    home: Annotated[Path | None, typer.Option(help="Data directory.")] = None,
) -> None:
    """Start the server with everything that it needs."""
    from api.server import serve

    def ready(services: object, url: str) -> None:
        print(f"REFLUX is ready at {url}", flush=True)
        key = getattr(services, "first_key", None)
        if key:
            print(f"API key (shown this once): {key}", flush=True)

    try:
        serve(load_settings(host=host, port=port, home=home), ready)
    except RefluxError as error:
        print(f"reflux: {error.detail}", file=sys.stderr)
        raise typer.Exit(1) from None
