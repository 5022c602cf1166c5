"""Finds in a `match` what can be looked up instead of evaluated: `event.order_id == input.order_id`. Pure.

`a && b` is true when both are, so the parts between top-level `&&` can be tested one by one and in any order. A part
that compares one place of the event with something that does not depend on the event becomes a key: ten thousand
waits for one name are then told apart by one look into a dictionary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from core.json import JsonValue
from engine.expression.errors import ExpressionSyntaxError
from engine.expression.lexer import Token, TokenKind, tokenize
from engine.expression.program import compile_expression

_RELATIONS = frozenset({"==", "!=", "<", "<=", ">", ">="})
_EXACT = 2**53
"""Whole numbers below this are the same as integers and as floats; beyond, CEL and Python compare differently."""

Key = tuple[str, str | int | float | bool | None]
"""A JSON scalar such that equal keys mean equal values: true is not 1, but 1 is 1.0."""


@dataclass(frozen=True, slots=True)
class Correlation:
    """A part of the form `event.<path> == <other>`.

    Attributes:
        path: keys from the event's payload.
        other: source of the other side, which does not refer to the event.
    """

    path: tuple[str, ...]
    other: str


@dataclass(frozen=True, slots=True)
class Condition:
    """A `match`, taken apart.

    Attributes:
        correlation: what can be looked up; None when nothing can.
        rest: what has to be evaluated for those that were found; None when nothing is left.
    """

    correlation: Correlation | None
    rest: str | None


@lru_cache(maxsize=4_096)
def take_apart(match: str) -> Condition:
    """Split a `match` into what is looked up and what is evaluated.

    Raises:
        ExpressionSyntaxError: it is not CEL.
    """
    compile_expression(match)
    tokens = tokenize(match)
    parts = list(_conjuncts(tokens))
    for index, part in enumerate(parts):
        found = _correlation(part, match)
        if found is None:
            continue
        # Only of a plain reference or a literal does the JSON value tell all: `duration("1s")` is no number.
        settled = _is_plain(found.other)
        left = [_source(one, match) for at, one in enumerate(parts) if at != index or not settled]
        return Condition(found, " && ".join(left) or None)
    return Condition(None, match)


def key_of(value: JsonValue) -> Key | None:
    """The value as a key; None for lists, objects and large numbers, which have to be compared by CEL."""
    if value is None:
        return ("null", None)
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, str):
        return ("text", value)
    if isinstance(value, (int, float)) and -_EXACT < value < _EXACT:
        return ("number", value)  # equal numbers have equal hashes in Python, whatever their type
    return None


def look_up(payload: JsonValue, path: tuple[str, ...]) -> tuple[bool, JsonValue]:
    """Whether there is something at a path, and what."""
    for key in path:
        if not isinstance(payload, dict) or key not in payload:
            return False, None
        payload = payload[key]
    return True, payload


def _conjuncts(tokens: Sequence[Token]) -> Iterator[Sequence[Token]]:
    """The parts between top-level `&&`; the whole when something that binds weaker stands beside them."""
    cuts = []
    for index, token in _top_level(tokens):
        if token.text in ("||", "?"):
            yield tokens
            return
        if token.text == "&&":
            cuts.append(index)
    start = 0
    for cut in [*cuts, len(tokens)]:
        yield tokens[start:cut]
        start = cut + 1


def _top_level(tokens: Sequence[Token]) -> Iterator[tuple[int, Token]]:
    depth = 0
    for index, token in enumerate(tokens):
        if token.kind is TokenKind.PUNCTUATION and token.text in "([{":
            depth += 1
        elif token.kind is TokenKind.PUNCTUATION and token.text in ")]}":
            depth -= 1
        elif depth == 0 and token.kind in (TokenKind.PUNCTUATION, TokenKind.NAME):
            yield index, token


def _correlation(part: Sequence[Token], match: str) -> Correlation | None:
    relations = [
        (index, token.text) for index, token in _top_level(part) if token.text in _RELATIONS or token.text == "in"
    ]
    if len(relations) != 1 or relations[0][1] != "==" or any(one.text in ("||", "?") for _, one in _top_level(part)):
        return None
    left, right = part[: relations[0][0]], part[relations[0][0] + 1 :]
    for one, other in ((left, right), (right, left)):
        path = _event_path(_source(one, match))
        source = _source(other, match)
        if path and not _reads_event(source):
            return Correlation(path, source)
    return None


def _source(tokens: Sequence[Token], match: str) -> str:
    return match[tokens[0].start : tokens[-1].end] if tokens else ""


def _event_path(source: str) -> tuple[str, ...]:
    try:
        path = compile_expression(source).path
    except ExpressionSyntaxError:
        return ()
    return path[1:] if path is not None and path[0] == "event" else ()


def _reads_event(source: str) -> bool:
    try:
        analysis = compile_expression(source).analysis
    except ExpressionSyntaxError:
        return True
    return analysis.secret is not None or any(one.root == "event" for one in analysis.references)


def _is_plain(source: str) -> bool:
    if compile_expression(source).path is not None:
        return True
    tokens = tokenize(source)
    literal = tokens[0].kind in (TokenKind.STRING, TokenKind.NUMBER) or tokens[0].text in ("true", "false", "null")
    return len(tokens) == 1 and literal
