"""A compiled expression: what it refers to, what it may cost, and the native program."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cel

from core.json import JsonValue
from engine.expression.errors import ExpressionSyntaxError
from engine.expression.lexer import tokenize
from engine.expression.references import Analysis, Reference, analyze

CACHED_PROGRAMS = 4096
"""Compiled expressions that the process keeps, least recently used dropped first."""

KEPT_LEVELS = 4
"""Names of a reference that decide what is passed to CEL: `steps.charge.output.id` passes that one value."""

Keep = dict[str, "Keep | None"]
"""A tree of the keys that are referred to; None means everything below."""

_PLACE = re.compile(r"<input>:(\d+):(\d+): ([^\n]*)")


@dataclass(frozen=True, slots=True, eq=False)
class Expression:
    """One CEL expression, checked and compiled.

    Attributes:
        source: as written, without outer white space.
        analysis: references and cost drivers.
        keep: roots and keys that an evaluation needs.
        program: the native program; None for a secret, which is never evaluated.
        path: root and keys, when the expression is one plain reference and can be answered without the program.
    """

    source: str
    analysis: Analysis
    keep: Keep
    program: Any
    path: tuple[str, ...] | None = None


@lru_cache(maxsize=CACHED_PROGRAMS)
def compile_expression(source: str) -> Expression:
    """Check and compile one expression, or give the cached result.

    Raises:
        ExpressionSyntaxError: it is not CEL, or breaks a bound on its text.
    """
    analysis = analyze(tokenize(source), source)
    if analysis.secret is not None:
        return Expression(source, analysis, {}, None)
    try:
        program = cel.compile(source)
    except ValueError as error:
        raise _syntax_error(source, str(error)) from None
    pure = analysis.pure_path
    path = (pure.root, *pure.path) if pure is not None else None
    return Expression(source, analysis, keep_tree(analysis.references), program, path)


def keep_tree(references: Iterable[Reference]) -> Keep:
    """Join references into a tree of the keys that are needed; a shorter reference wins over a longer one."""
    tree: Keep = {}
    for reference in references:
        names = (reference.root, *reference.path)[:KEPT_LEVELS]
        level = tree
        for name in names[:-1]:
            below = level.setdefault(name, {})
            if below is None:
                break
            level = below
        else:
            level[names[-1]] = None
    return tree


def project(value: JsonValue, keep: Keep | None) -> JsonValue:
    """The part of a value that a keep tree names; keys that are missing stay missing."""
    if keep is None or not isinstance(value, dict):
        return value
    return {key: project(value[key], below) for key, below in keep.items() if key in value}


def _syntax_error(source: str, said: str) -> ExpressionSyntaxError:
    found = _PLACE.search(said)
    if found is None:
        return ExpressionSyntaxError("not a CEL expression", source, 0)
    line, column, problem = int(found[1]), int(found[2]), found[3]
    # The parser lists every token it would have taken; that helps nobody.
    problem = re.sub(r" expecting .*", "", problem).removeprefix("Syntax error: ")
    problem = re.sub(r"mismatched input|extraneous input|no viable alternative at input", "unexpected", problem)
    lines = source.split("\n")[: line - 1]
    position = sum(len(one) + 1 for one in lines) + column - 1
    return ExpressionSyntaxError(problem.replace("'<EOF>'", "end of expression"), source, max(position, 0))
