"""Reads what commands take: workflow files, JSON values, fields."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from api.cli.failure import CommandError

_SUFFIXES = (".yaml", ".yml", ".json")


def is_file(text: str) -> bool:
    """Whether an argument names a file rather than a workflow."""
    return text.endswith(_SUFFIXES) or "/" in text or Path(text).is_file()


def media_type(path: Path) -> str:
    """How a workflow file is to be read."""
    return "application/json" if path.suffix == ".json" else "application/yaml"


def read_file(path: Path) -> bytes:
    """The bytes of a file. Raises CommandError when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}") from None


def read_value(text: str, option: str) -> Any:
    """A JSON value given as itself, as `@file`, or as `-` for standard input. Raises CommandError."""
    import core.json
    from core.json import JsonError

    if text == "-":
        raw = sys.stdin.buffer.read()
    elif text.startswith("@"):
        raw = read_file(Path(text[1:]))
    else:
        raw = text.encode("utf-8", "surrogateescape")
    try:
        return core.json.decode(raw)
    except JsonError as error:
        raise CommandError(f"{option} is {error}") from None


def read_fields(pairs: Sequence[str], option: str) -> dict[str, Any]:
    """`name=value` pairs; a value that is JSON is taken as such, any other as text. Raises CommandError."""
    import core.json
    from core.json import JsonError

    fields: dict[str, Any] = {}
    for name, value in (_split(pair, option) for pair in pairs):
        try:
            fields[name] = core.json.decode(value)
        except JsonError:
            fields[name] = value
    return fields


def read_texts(pairs: Sequence[str], option: str) -> dict[str, str]:
    """`name=value` pairs, with values as they stand. Raises CommandError."""
    return dict(_split(pair, option) for pair in pairs)


def _split(pair: str, option: str) -> tuple[str, str]:
    name, sign, value = pair.partition("=")
    if not sign or not name:
        raise CommandError(f"{option} {pair!r} is not of the form name=value")
    return name, value
