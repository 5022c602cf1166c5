"""Tokens of CEL, and the bounds on its text.

The native parser is only called with text that has passed here: it is short, its brackets match and are not nested
deep, so neither the parser nor the evaluator's recursion can run out of stack.
"""

import re
from enum import StrEnum
from typing import NamedTuple

from engine.expression.errors import ExpressionSyntaxError

MAX_SOURCE = 4096
"""Characters of one expression."""

MAX_NESTING = 32
"""Brackets, of any kind, inside each other."""


class TokenKind(StrEnum):
    """What a token is; comments and white space give none."""

    NAME = "name"
    STRING = "string"
    BYTES = "bytes"
    NUMBER = "number"
    PUNCTUATION = "punctuation"


class Token(NamedTuple):
    """A piece of source. `start` is an offset from the beginning of the expression."""

    kind: TokenKind
    text: str
    start: int

    @property
    def end(self) -> int:
        """Offset behind the last character."""
        return self.start + len(self.text)


# Strings in the order of CEL's grammar: raw ones know no escapes; triple quotes may span lines.
_QUOTED = (
    r"[rR]\"\"\"(?:[^\"]|\"(?!\"\"))*\"\"\"|[rR]'''(?:[^']|'(?!''))*'''"
    r"|[rR]\"[^\"\n\r]*\"|[rR]'[^'\n\r]*'"
    r"|\"\"\"(?:\\[\s\S]|[^\"\\]|\"(?!\"\"))*\"\"\"|'''(?:\\[\s\S]|[^'\\]|'(?!''))*'''"
    r"|\"(?!\"\")(?:\\[^\n\r]|[^\"\\\n\r])*\"|'(?!'')(?:\\[^\n\r]|[^'\\\n\r])*'"
    r"|\"\"|''"
)
_TOKEN = re.compile(
    rf"(?P<skip>[ \t\n\r\f]+|//[^\n]*)"
    rf"|(?P<bytes>[bB](?:{_QUOTED}))"
    rf"|(?P<string>{_QUOTED})"
    rf"|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    rf"|(?P<number>0x[0-9a-fA-F]+[uU]?|[0-9]+\.[0-9]+(?:[eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+"
    rf"|\.[0-9]+(?:[eE][+-]?[0-9]+)?|[0-9]+[uU]?)"
    rf"|(?P<punctuation>&&|\|\||==|!=|<=|>=|[-+*/%<>!?:.,()\[\]{{}}])"
)
_CLOSES = {")": "(", "]": "[", "}": "{"}
_HINTS = {
    "=": "write == to compare",
    "&": "write && for and",
    "|": "write || for or",
    "'": "the string has no end",
    '"': "the string has no end",
    "$": "names start with a letter, for example input.amount",
    "`": 'write input["a b"] for a key that is not a name',
    ";": "an expression is one value without statements",
}


def tokenize(source: str) -> tuple[Token, ...]:
    """Split one expression into tokens.

    Raises:
        ExpressionSyntaxError: a character or bracket out of place, or a bound is broken.
    """
    tokens, _ = _scan(source, 0, inside_template=False)
    return tokens


def tokenize_until_close(text: str, start: int) -> tuple[tuple[Token, ...], str, int]:
    """Read the expression that begins at `start` behind a `{{`, and find the `}}` that ends it.

    Braces in string literals, comments and map literals do not end it.

    Returns:
        its tokens, its source, and the offset in `text` behind the `}}`.

    Raises:
        ExpressionSyntaxError: as `tokenize`; also when no `}}` follows.
    """
    tokens, end = _scan(text, start, inside_template=True)
    return tokens, text[start:end], end + 2


def _scan(text: str, start: int, *, inside_template: bool) -> tuple[tuple[Token, ...], int]:
    limit = min(len(text), start + MAX_SOURCE)
    if not inside_template and limit < len(text):
        raise _too_long(text, start)
    tokens: list[Token] = []
    open_brackets: list[Token] = []
    position = start
    while position < limit:
        match = _TOKEN.match(text, position, limit)
        if match is None:
            raise _unexpected(text, start, position, limit)
        piece, group = match.group(), match.lastgroup
        if piece == "}" and not open_brackets and inside_template and text.startswith("}}", position):
            return tuple(tokens), position
        if group != "skip":
            token = Token(TokenKind(group or ""), piece, position - start)
            if token.kind is TokenKind.PUNCTUATION:
                problem = _follow_brackets(token, open_brackets)
                if problem:
                    raise ExpressionSyntaxError(problem, text[start:limit], token.start)
            tokens.append(token)
        position = match.end()
    if inside_template and not text.startswith("}}", position):
        raise _no_end(text, start, limit)
    if open_brackets:
        last = open_brackets[-1]
        raise ExpressionSyntaxError(f"`{last.text}` is never closed", text[start:limit], last.start)
    return tuple(tokens), position


def _no_end(text: str, start: int, limit: int) -> ExpressionSyntaxError:
    if limit < len(text):
        return _too_long(text, start)
    return ExpressionSyntaxError("`{{` has no `}}` that ends it", text[start:limit], max(start - 2, 0))


def _follow_brackets(token: Token, open_brackets: list[Token]) -> str | None:
    """Keep the stack of open brackets; returns what is wrong, if anything."""
    if token.text in "([{":
        open_brackets.append(token)
        if len(open_brackets) > MAX_NESTING:
            return f"brackets are nested deeper than {MAX_NESTING}; split the expression over several steps"
    elif token.text in _CLOSES:
        if not open_brackets:
            return f"`{token.text}` closes nothing"
        opened = open_brackets.pop()
        if opened.text != _CLOSES[token.text]:
            return f"`{opened.text}` is closed by `{token.text}`"
    return None


def _too_long(text: str, start: int) -> ExpressionSyntaxError:
    return ExpressionSyntaxError(
        f"the expression is longer than {MAX_SOURCE} characters; split it over several steps",
        text[start : start + MAX_SOURCE],
        MAX_SOURCE,
    )


def _unexpected(text: str, start: int, position: int, limit: int) -> ExpressionSyntaxError:
    character = text[position]
    if character in "\"'" and limit < len(text):
        return _too_long(text, start)
    hint = _HINTS.get(character)
    said = f"unexpected character {character!r}" + (f": {hint}" if hint else "")
    return ExpressionSyntaxError(said, text[start:limit], position - start)
