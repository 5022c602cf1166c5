"""`reflux`: start the server, and talk to one.

What a command needs is loaded when the command runs, so that `reflux --help` answers at once.
"""

import typer

from api.cli import (
    audit,
    cache,
    events,
    insights,
    keys,
    limits,
    nodes,
    runs,
    secrets,
    traces,
    triggers,
    variables,
    workflows,
)
from api.cli.execute import execute
from api.cli.status import status
from api.cli.up import up
from api.cli.validate import validate
from api.cli.worker import worker, workers

app = typer.Typer(
    name="reflux", no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
)


@app.callback()
def main() -> None:
    """Run workflows durably, and see every attempt of every step."""


app.command()(up)
app.command()(execute)
app.command()(validate)
app.command()(status)
app.command()(worker)
app.command()(workers)
for one in (
    runs,
    workflows,
    triggers,
    events,
    nodes,
    limits,
    cache,
    variables,
    secrets,
    keys,
    traces,
    insights,
    audit,
):
    app.add_typer(one.app)
