"""`reflux worker`: perform steps of some node groups. `reflux workers`: who does, and what waits."""

import re
from pathlib import Path
from typing import Annotated

import typer

from api.cli.call import Call, command
from api.cli.failure import FAILED, WRONG
from api.cli.output import note, print_json, print_table, say
from core.errors import Invalid, RefluxError

_GROUP = re.compile(r"[a-z][a-z0-9_]{0,63}")
_MOST = 1000


def worker(
    nodes: Annotated[str, typer.Option(help="Node groups, commas between: `http` serves http.request.")],
    concurrency: Annotated[int, typer.Option(min=1, max=_MOST, help="Attempts at once.")] = 50,
    home: Annotated[Path | None, typer.Option(help="Data directory, shared with the server; REFLUX_HOME.")] = None,
) -> None:
    """Perform the steps of some node groups for servers that have a broker. Ctrl+C or SIGTERM stops it."""
    groups = list(dict.fromkeys(part.strip() for part in nodes.split(",") if part.strip()))
    wrong = [group for group in groups if not _GROUP.fullmatch(group)]
    if wrong or not groups:
        note(
            f"reflux: --nodes must be node groups such as `http,ai`; {', '.join(map(repr, wrong)) or 'nothing'} is not"
        )
        raise typer.Exit(WRONG)
    from api.worker import run_worker
    from infra.settings import load_settings

    try:
        run_worker(load_settings(home=home), groups, concurrency)
    except Invalid as error:
        note(f"reflux: {error.detail}")
        raise typer.Exit(WRONG) from None
    except RefluxError as error:
        note(f"reflux: {error.detail}")
        raise typer.Exit(FAILED) from None


@command
def workers(call: Call) -> None:
    """List the worker processes that live, and the queue depth of each node group."""
    found = call.server.get("/api/v1/workers")
    if call.as_json:
        print_json(found)
        return
    print_table(found["groups"], ("group", "queued", "running", "workers", "oldest_seconds"), "No group has tasks.")
    say("")
    columns = ("id", "groups", "hostname", "pid", "running", "concurrency", "started_at")
    print_table(found["workers"], columns, "No worker lives.")
