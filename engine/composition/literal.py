"""Parameters that are taken as they are written: the steps of a body have expressions of their own.

A manifest's `literal_fields` names them by path; `*` stands for any member: `steps`, `branches.*.steps`.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from core.json import JsonValue


def split_literal(
    params: Mapping[str, JsonValue], literal_fields: Iterable[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters without their literal parts, and the literal parts alone, each in its place."""
    rest: dict[str, Any] = dict(params)
    literal: dict[str, Any] = {}
    for path in literal_places(params, literal_fields):
        _move(params, rest, literal, path)
    return rest, literal


def join_literal(params: Mapping[str, JsonValue], literal: Mapping[str, JsonValue]) -> dict[str, Any]:
    """Put literal parts back to where `split_literal` took them from."""
    joined = dict(params)
    for key, value in literal.items():
        below = joined.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            joined[key] = join_literal(below, value)
        else:
            joined[key] = value
    return joined


def literal_places(params: Mapping[str, JsonValue], literal_fields: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """Paths of the literal parts that are there."""
    for field in literal_fields:
        yield from _places(params, tuple(field.split(".")), ())


def _places(value: JsonValue, wanted: tuple[str, ...], path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if not wanted:
        yield path
        return
    if isinstance(value, Mapping):
        keys = list(value) if wanted[0] == "*" else [wanted[0]] if wanted[0] in value else []
        for key in keys:
            yield from _places(value[key], wanted[1:], (*path, key))


def _move(params: Mapping[str, Any], rest: dict[str, Any], literal: dict[str, Any], path: tuple[str, ...]) -> None:
    source: Any = params
    for key in path[:-1]:
        source = source[key]
        # Each level is copied once: what was given is not touched.
        rest[key] = dict(rest[key]) if rest[key] is source else rest[key]
        rest = rest[key]
        literal = literal.setdefault(key, {})
    literal[path[-1]] = rest.pop(path[-1])
