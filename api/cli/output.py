"""Prints for people (tables and sentences) or for programs (one JSON value on standard output)."""

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Row = Mapping[str, Any]
Column = str | tuple[str, Callable[[Row], Any]]
"""A field's name, or a heading with what stands below it."""

_PIPED_WIDTH = 240
_COLORS = {
    "completed": "green", "ok": "green", "failed": "red", "error": "red", "timeout": "red", "cancelled": "yellow",
    "running": "cyan", "waiting": "blue", "outcome_unknown": "magenta", "skipped": "bright_black",
}  # fmt: skip
# Terminals obey these, and what a workflow's steps say is anybody's text.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def print_json(value: Any) -> None:
    """One JSON value on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def say(sentence: str) -> None:
    """A sentence on standard output."""
    sys.stdout.write(clean(sentence) + "\n")


def note(sentence: str) -> None:
    """A sentence on standard error: progress, hints, errors."""
    sys.stderr.write(clean(sentence) + "\n")


def print_table(rows: Iterable[Row], columns: Sequence[Column], empty: str) -> None:
    """Rows as a table, or a sentence when there are none."""
    shown = list(rows)
    if not shown:
        say(empty)
        return
    console(sys.stdout).print(table(shown, columns))


def table(rows: Iterable[Row], columns: Sequence[Column]) -> "Table":
    """Rows as a table."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(column if isinstance(column, str) else column[0], overflow="fold")
    for row in rows:
        cells = [row.get(column) if isinstance(column, str) else column[1](row) for column in columns]
        made.add_row(*[cell(value) for value in cells])
    return made


def cell(value: Any) -> Any:
    """A value as it stands in a table."""
    from rich.text import Text

    text = clean(as_text(value))
    return Text(text, style=_COLORS.get(text, ""))


def console(stream: TextIO) -> "Console":
    """A console. A pipe has no width, so lines are not folded there."""
    from rich.console import Console

    return Console(file=stream, width=None if stream.isatty() else _PIPED_WIDTH, highlight=False)


def as_text(value: Any) -> str:
    """A value as a person reads it."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def clean(text: str) -> str:
    """Text without control characters."""
    return _CONTROL.sub("�", text)


def print_faults(faults: Iterable[Row], stream: TextIO | None = None) -> None:
    """What is wrong with a document, one row for each fault."""
    columns: list[Column] = ["path", "code", ("what is wrong", lambda row: row.get("message")), "suggestion"]
    shown = list(faults)
    if any("file" in row for row in shown):
        columns.insert(0, "file")
    console(stream or sys.stdout).print(table(shown, columns))
