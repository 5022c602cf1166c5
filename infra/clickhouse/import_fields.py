"""What a field of an imported trace may hold.

Rules run on columns, not on rows: a text rule looks at each distinct value once, a number rule first looks at the
types and the extremes. So a good column costs little more than reading it, and only a bad one is walked.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import Any

from core.trace import TraceStatus

MAX_ENTRIES = 64
"""Features, context entries or metrics that a row may have (each kind for itself)."""

_NAME = 200
_VALUE = 500
_MESSAGE = 2000
_HUGE = 1e15
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CONTROL_IN_PROSE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_FIRST = datetime(1990, 1, 1, tzinfo=UTC)
_LAST = datetime(2100, 1, 1, tzinfo=UTC)
_STATUSES = frozenset(status.value for status in TraceStatus)
_NUMBERS = frozenset({int, float})

Problem = tuple[int, str]
"""Index of the row, and what is wrong with its field."""

Checked = tuple[list[Any], list[Problem]]
"""The column with clean values, and its problems; the values of rows with a problem mean nothing."""

Rule = Callable[[list[Any]], Checked]


class BadValue(ValueError):
    """One value breaks its rule; the message is the reason that the caller reads."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the import row. `default` None means that it is required; null counts as absent."""

    name: str
    rule: Rule
    default: Any = None

    def column(self, rows: Sequence[dict[str, Any]]) -> Checked:
        """The field of every row."""
        name, default = self.name, self.default
        values = [row.get(name, default) for row in rows]
        if None not in values:
            return self.rule(values)
        if default is not None:
            return self.rule([default if value is None else value for value in values])
        # The rule reports the missing ones too, as being of the wrong type; the first problem of a row is what counts.
        missing = [(i, "is required") for i, value in enumerate(values) if value is None]
        column, problems = self.rule(values)
        return column, missing + problems


def _name(value: str) -> str:
    value = _CONTROL.sub("", value)  # the same object when there is nothing to strip
    if len(value) > _NAME:
        raise BadValue(f"is longer than {_NAME} characters")
    return value


def _required_name(value: str) -> str:
    value = _name(value)
    if not value.strip():
        raise BadValue("must not be empty")
    return value


def _message(value: str) -> str:
    # A long message is cut and not refused: failures are what the import is for.
    return _CONTROL_IN_PROSE.sub("", value)[:_MESSAGE]


def _status(value: str) -> str:
    if value not in _STATUSES:
        raise BadValue("must be ok, error, timeout or cancelled")
    return value


def _start(value: str) -> datetime:
    if not _RFC3339.fullmatch(value):
        raise BadValue("must be an RFC 3339 time with an offset, such as 2025-03-01T12:00:00Z")
    try:
        start = datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadValue("is not a date and time that exists") from None
    if not _FIRST <= start < _LAST:
        raise BadValue("must be between 1990 and 2100")
    return start


def text(clean: Callable[[str], Any]) -> Rule:
    """A text column; `clean` gives the value to store or raises BadValue, and runs once for each distinct text."""

    def rule(values: list[Any]) -> Checked:
        problems: list[Problem] = []
        if set(map(type, values)) != {str}:
            problems = [(i, "must be a text") for i, value in enumerate(values) if type(value) is not str]
            values = [value if type(value) is str else "" for value in values]
        cleaned: dict[str, Any] = {}
        bad: dict[str, str] = {}
        for value in set(values):
            try:
                cleaned[value] = clean(value)
            except BadValue as error:
                bad[value] = str(error)
        # A value of another type stands here as an empty text; that it was reported first is what counts.
        if bad:
            problems += [(i, bad[value]) for i, value in enumerate(values) if value in bad]
        elif all(value is after for value, after in cleaned.items()):
            return values, problems
        return [cleaned.get(value) for value in values], problems

    return rule


def number(low: float, high: float = _HUGE, *, whole: bool = False, above: bool = False) -> Rule:
    """A column of finite numbers in [low, high], or (low, high] with `above`; `whole` allows integers alone."""
    kinds = frozenset({int}) if whole else _NUMBERS
    kind = "an integer" if whole else "a number"
    limits = f"must be {'above' if above else 'at least'} {low:g} and at most {high:g}"

    def fits(value: float) -> bool:
        return (value > low if above else value >= low) and value <= high

    def rule(values: list[Any]) -> Checked:
        if set(map(type, values)) <= kinds and fits(min(values)) and fits(max(values)):
            return values, []
        problems = []
        for i, value in enumerate(values):
            if type(value) not in kinds:  # exact, because a boolean is an int
                problems.append((i, f"must be {kind}"))
            elif not fits(value):
                problems.append((i, limits))
        return values, problems

    return rule


def boolean(values: list[Any]) -> Checked:
    """A column of true and false."""
    if set(map(type, values)) <= {bool}:
        return values, []
    return values, [(i, "must be true or false") for i, value in enumerate(values) if type(value) is not bool]


def mapping(*kinds: type, what: str) -> Rule:
    """A column of small objects whose values are of the given types."""
    allowed = frozenset(kinds)

    def rule(values: list[Any]) -> Checked:
        if _all_sound(values, allowed):
            return values, []
        problems: list[Problem] = []
        column: list[Any] = []
        for i, value in enumerate(values):
            try:
                column.append(_object(value, allowed, what))
            except BadValue as error:
                column.append({})
                problems.append((i, str(error)))
        return column, problems

    return rule


def _all_sound(values: list[Any], allowed: frozenset[type]) -> bool:
    """True when `_object` would return every value as it is; false says nothing."""
    if not set(map(type, values)) <= {dict} or max(map(len, values)) > MAX_ENTRIES:
        return False
    entries = [entry for value in values for entry in value.values()]
    words = set(chain.from_iterable(values))
    types = set(map(type, entries))
    if not types <= allowed:
        return False
    numbers = entries
    if str in types:
        numbers = [entry for entry in entries if type(entry) is not str]
        words.update(entry for entry in entries if type(entry) is str)
    if numbers and not (min(numbers) >= -_HUGE and max(numbers) <= _HUGE):
        return False
    return all(len(word) <= _NAME and not _CONTROL.search(word) for word in words)


def _object(value: Any, allowed: frozenset[type], what: str) -> dict[str, Any]:
    if type(value) is not dict:
        raise BadValue(f"must be an object {what}")
    if len(value) > MAX_ENTRIES:
        raise BadValue(f"has more than {MAX_ENTRIES} entries")
    clean: dict[str, Any] = {}
    for key, one in value.items():
        if type(one) not in allowed:
            raise BadValue(f"must be an object {what}; {key[:50]!r} is not")
        if type(one) is str:
            clean[_fit(key, _NAME)] = _fit(one, _VALUE)
        elif -_HUGE <= one <= _HUGE:
            clean[_fit(key, _NAME)] = one
        else:
            raise BadValue(f"must hold numbers between -1e15 and 1e15; {key[:50]!r} is not")
    return clean


def _fit(value: str, limit: int) -> str:
    value = _CONTROL.sub("", value)
    if len(value) > limit:
        raise BadValue(f"holds a text longer than {limit} characters")
    return value


FIELDS: tuple[Field, ...] = (
    Field("run_id", text(_required_name)),
    Field("step_id", text(_required_name)),
    Field("node", text(_required_name)),
    Field("status", text(_status)),
    Field("start", text(_start)),
    Field("latency_ms", number(0)),
    Field("node_version", text(_name), ""),
    Field("workflow", text(_name), ""),
    Field("attempt", number(1, 1_000_000, whole=True), 1),
    Field("error_class", text(_name), ""),
    Field("error_message", text(_message), ""),
    Field("cost_usd", number(0), 0.0),
    Field("tokens_in", number(0, whole=True), 0),
    Field("tokens_out", number(0, whole=True), 0),
    Field("cache_hit", boolean, False),
    Field("inputs_hash", text(_name), ""),
    Field("features", mapping(int, float, str, what="of numbers and texts"), {}),
    Field("context", mapping(str, what="of texts"), {}),
    Field("metrics", mapping(int, float, what="of numbers"), {}),
    Field("arm", text(_name), ""),
    Field("arm_probability", number(0, 1, above=True), 1.0),
)
"""The trace import row, as the REST contract fixes it."""

_NAMES = frozenset(one.name for one in FIELDS)


def check(rows: Sequence[dict[str, Any]]) -> tuple[dict[str, list[Any]], dict[int, tuple[str, str]]]:
    """The columns of the rows (at least one), and for each bad row its first bad field with the reason."""
    columns: dict[str, list[Any]] = {}
    bad: dict[int, tuple[str, str]] = {}
    present = set(chain.from_iterable(rows))
    if not present <= _NAMES:
        for i, row in enumerate(rows):
            if not row.keys() <= _NAMES:
                bad[i] = (min(row.keys() - _NAMES)[:_NAME], "is not a field of a trace")
    for one in FIELDS:
        if one.name in present or one.default is None:
            columns[one.name], problems = one.column(rows)
            for i, reason in problems:
                bad.setdefault(i, (one.name, reason))
        else:
            columns[one.name] = [one.default] * len(rows)
    return columns, bad
