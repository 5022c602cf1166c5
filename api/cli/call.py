"""What every command that talks to a server has in common: where it is, `--json`, and errors without tracebacks."""

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from api.cli.connection import DEFAULT_URL, Connection
from api.cli.failure import INTERRUPTED, CommandError
from api.cli.output import Column, note, print_faults, print_json, print_table, say

Url = Annotated[str, typer.Option("--url", envvar="REFLUX_URL", help="The server's address.")]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key", envvar="REFLUX_API_KEY", help="Default: the file `api-key` that `reflux up` left in its home."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, and nothing else.")]
Limit = Annotated[int, typer.Option(min=1, max=100, help="How many at most.")]
Cursor = Annotated[str | None, typer.Option(help="Go on where the page before ended.")]
Since = Annotated[str | None, typer.Option("--from", help="From this time on, such as 2026-11-01T00:00:00Z.")]
Until = Annotated[str | None, typer.Option("--to", help="Before this time.")]

_KIND = inspect.Parameter.KEYWORD_ONLY
_SHARED = (
    inspect.Parameter("url", _KIND, default=DEFAULT_URL, annotation=Url),
    inspect.Parameter("api_key", _KIND, default=None, annotation=ApiKey),
    inspect.Parameter("as_json", _KIND, default=False, annotation=Json),
)


class Call:
    """One command at work."""

    def __init__(self, url: str, api_key: str | None, as_json: bool) -> None:
        self._url = url
        self._api_key = api_key
        self.as_json = as_json

    @functools.cached_property
    def server(self) -> Connection:
        """The server, connected to when it is asked for."""
        return Connection(self._url, self._api_key)

    def show(self, value: Any, *columns: Column, empty: str = "There are none.") -> None:
        """A list of the API (`{items, next_cursor}`) as a table, or as it is with `--json`."""
        if self.as_json:
            print_json(value)
            return
        print_table(value["items"], columns, empty)
        if value.get("next_cursor"):
            note(f"There are more; go on with --cursor {value['next_cursor']}")

    def tell(self, value: Any, sentence: str) -> None:
        """What a command did: a sentence, or the server's answer with `--json`."""
        if self.as_json:
            print_json(value)
        else:
            say(sentence)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a function whose first argument is a Call a command with `--url`, `--api-key` and `--json`."""
    signature = inspect.signature(function, eval_str=True)
    own = list(signature.parameters.values())[1:]

    @functools.wraps(function)
    def run(*args: Any, url: str, api_key: str | None, as_json: bool, **given: Any) -> None:
        try:
            function(Call(url, api_key, as_json), *args, **given)
        except CommandError as error:
            report(error, as_json)
            raise typer.Exit(error.code) from None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # The reader of our output has gone; nothing more is to be said to it.
            with suppress(OSError):
                sys.stdout.close()
            raise typer.Exit(0) from None

    parameters = [*own, *_SHARED]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def report(error: CommandError, as_json: bool) -> None:
    """An error for a person on standard error, and as the one JSON value with `--json`."""
    note(f"reflux: {error.sentence}")
    if as_json:
        print_json(error.problem)
    elif error.faults:
        print_faults(error.faults, sys.stderr)


class ListByDefault(TyperGroup):
    """A group of commands whose name alone means its `list`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `list` in front of options that no command stands before."""
        if not args or (args[0].startswith("-") and args[0] not in ("-h", "--help")):
            args.insert(0, "list")
        return super().parse_args(ctx, args)


def group(name: str, text: str, list_by_default: bool = True) -> typer.Typer:
    """A group of commands."""
    return typer.Typer(
        name=name,
        help=text,
        cls=ListByDefault if list_by_default else None,
        no_args_is_help=not list_by_default,
        rich_markup_mode=None,
    )


def steps_of(run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The steps of a run as rows of a table."""
    return [
        {
            "step": one["id"],
            "status": one["status"],
            "attempts": one["attempts"],
            "seconds": _seconds(one),
            "detail": _detail(one),
        }
        for one in run["steps"]
    ]


def _seconds(step: Mapping[str, Any]) -> str | None:
    from datetime import datetime

    started, finished = step.get("started_at"), step.get("finished_at")
    if not started or not finished:
        return None
    return f"{(datetime.fromisoformat(finished) - datetime.fromisoformat(started)).total_seconds():.3f}"


def _detail(step: Mapping[str, Any]) -> str:
    parts = []
    if step.get("error"):
        parts.append(f"{step['error']['class']}: {step['error']['message']}")
    if step.get("items"):
        parts.append(f"{step['items']['finished']} of {step['items']['total']} elements")
    waiting = step.get("waiting_for") or {"reason": "dependency"}
    if waiting["reason"] != "dependency":
        parts.append(f"waits: {waiting['reason']}, {waiting.get('until') or waiting.get('detail') or ''}")
    if step.get("reason"):
        parts.append(step["reason"])
    return "; ".join(parts)
