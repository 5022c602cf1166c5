"""Failures of the native library in words that help: what was missing, what is there, how to convert."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from core.json import JsonValue
from engine.expression.errors import ExpressionError
from engine.expression.program import Expression
from engine.expression.references import Reference

NEAR_NAMES = 5
_SEEN_VALUES = 2_000
_SEEN_KEY = 60

TOO_LONG = "the expression takes too long (more than 50 ms of CPU); use a smaller list, foreach or several steps"
TOO_MUCH_MEMORY = "the expression needs too much memory; use smaller values or several steps"
LISTS_TOO_LONG = "map, filter, all and exists take lists of up to {limit} elements; use foreach, or a smaller list"


def explain(expression: Expression, scope: Mapping[str, JsonValue], kind: str, said: str) -> ExpressionError:
    """The error for a failed evaluation.

    Args:
        expression: what was evaluated.
        scope: the values it could refer to.
        kind: class name of the native exception.
        said: its message.
    """
    source = expression.source
    broken = next(filter(None, (broken_reference(ref, scope) for ref in expression.analysis.references)), None)
    if kind == "KeyError" and broken is None:
        return ExpressionError(_missing_key(said.strip("'\""), _keys_below(expression, scope)), source)
    if kind in ("KeyError", "TypeError", "RuntimeError") and broken is not None:
        return ExpressionError(broken, source)
    return ExpressionError(_by_kind(kind, said), source)


_PROBLEMS = {
    "ZeroDivisionError": "division by zero; guard it, as in `b == 0 ? 0 : a / b`",
    "IndexError": "{said}; check size(list) first",
    "OverflowError": "the number does not fit into 64 bits; use double(x) for large numbers ({said})",
    "MemoryError": TOO_MUCH_MEMORY,
}


def _by_kind(kind: str, said: str) -> str:
    said = said[:400]
    if kind in _PROBLEMS:
        return _PROBLEMS[kind].replace("{said}", said)
    first = said.split(". ", maxsplit=1)[0].strip()
    if "overload" in said or "Unsupported operation" in said:
        operation = first if "Unsupported" in said else "the operation does not fit its operands' types"
        return (
            f"{operation}; int and double do not mix by themselves: convert with double(x) or int(x), "
            "and use string(x) to join text"
        )
    if said.startswith("Undefined variable or function"):
        return f"{first}, or its arguments have a type that it does not take"
    return said.split(". Check", maxsplit=1)[0].strip()


def broken_reference(reference: Reference, scope: Mapping[str, JsonValue]) -> str | None:
    """Why a reference has no value in this scope; None when it has one."""
    if reference.root not in scope:
        return f"unknown name `{reference.root}`" + _near(reference.root, scope, "names here")
    value: JsonValue = scope[reference.root]
    for index, key in enumerate(reference.path):
        parent = Reference(reference.root, reference.path[:index])
        if not isinstance(value, dict):
            return f"{parent} is {_kind_of(value)}, so it has no key `{key}`; guard it with has(), or check its type"
        if key not in value:
            return f"{parent} has no key `{key[:_SEEN_KEY]}`" + _near(key, value, "keys there")
        value = value[key]
    return None


def _missing_key(key: str, known: set[str]) -> str:
    return f"no such key `{key[:_SEEN_KEY]}`; test with has() or `in` first" + _near(key, known, "keys present")


def _near(wanted: str, known: Iterable[str], what: str) -> str:
    names = [name for name in list(known)[:_SEEN_VALUES] if len(name) <= _SEEN_KEY]
    close = get_close_matches(wanted[:_SEEN_KEY], names, NEAR_NAMES, 0.5)
    if close:
        return f"; did you mean {', '.join(f'`{name}`' for name in close)}?"
    return f"; {what}: {', '.join(f'`{name}`' for name in sorted(names)[:NEAR_NAMES])}" if names else ""


def _kind_of(value: JsonValue) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a bool"
    return {str: "a string", int: "an int", float: "a double", list: "a list"}.get(type(value), "a map")


def _keys_below(expression: Expression, scope: Mapping[str, JsonValue]) -> set[str]:
    """Keys of objects in the values referred to; looks at a bounded number of them."""
    waiting = [_value_of(reference, scope) for reference in expression.analysis.references]
    keys: set[str] = set()
    for _ in range(_SEEN_VALUES):
        if not waiting:
            break
        value = waiting.pop(0)
        room = _SEEN_VALUES - len(waiting)
        if isinstance(value, dict):
            keys.update(list(value)[:_SEEN_VALUES])
            waiting.extend(list(value.values())[:room])
        elif isinstance(value, list):
            waiting.extend(value[: min(room, 20)])
    return keys


def _value_of(reference: Reference, scope: Mapping[str, JsonValue]) -> JsonValue:
    value: JsonValue = scope.get(reference.root)
    for key in reference.path:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value
