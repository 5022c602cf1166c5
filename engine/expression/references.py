"""What an expression refers to: found in its tokens, so that nothing has to be evaluated to know it.

`steps.charge.output.id` and `steps["charge"].output.id` are the same reference. Names behind a dot, function names
and the variables of comprehension macros are none; a macro variable hides a root of the same name in its body.
"""

from collections import Counter
from dataclasses import dataclass

from engine.expression.errors import ExpressionSyntaxError
from engine.expression.lexer import Token, TokenKind

MACROS = {"map": (2, 3), "filter": (2, 2), "all": (2, 2), "exists": (2, 2), "exists_one": (2, 2)}
"""Comprehension macros, with the least and greatest number of their arguments."""

MAX_MACRO_NESTING = 2
"""Comprehension macros inside each other's bodies."""

BUILTIN_NAMES = frozenset(
    {"bool", "int", "uint", "double", "string", "bytes", "list", "map", "null_type", "type", "optional"}
)
"""Names that CEL itself defines: type names, as in `type(x) == int`, and the namespace of optionals."""

_LITERAL_NAMES = frozenset({"true", "false", "null", "in"})


@dataclass(frozen=True, slots=True)
class Reference:
    """A chain of literal keys from a root: `steps.charge.output` has root `steps`, path `("charge", "output")`.

    The path ends where the chain goes on with a call, a number or a computed index.
    """

    root: str
    path: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The chain as an author would write it."""
        return self.root + "".join(f".{key}" if key.isidentifier() else f'["{key}"]' for key in self.path)


@dataclass(frozen=True, slots=True)
class Analysis:
    """What the tokens of an expression tell.

    Attributes:
        references: without duplicates, in order of appearance.
        occurrences: how often roots and macro variables are read.
        macros: number of comprehension macro calls.
        pure_path: the whole expression is this one reference and nothing else.
        secret: name, when the whole expression is `secrets.NAME`.
        tokens: number of tokens.
        risky_match: a regular expression that may be costly: computed, long, or with counted repetition.
        matches: number of `matches` calls.
        mapped: the list, when the whole expression is `<reference>.map(…)` or `<reference>.filter(…)`.
        mapped_end: offset in the source where that reference ends.
    """

    references: tuple[Reference, ...]
    occurrences: int
    macros: int
    pure_path: Reference | None
    secret: str | None
    tokens: int
    risky_match: bool
    matches: int
    mapped: Reference | None = None
    mapped_end: int = 0


def analyze(tokens: tuple[Token, ...], source: str) -> Analysis:
    """Find the references and the cost drivers of an expression.

    Raises:
        ExpressionSyntaxError: empty expression, `steps` without a literal id, a secret inside a larger expression,
            a macro with wrong arguments or nested too deep, message construction.
    """
    if not tokens:
        raise ExpressionSyntaxError("the expression is empty", source, 0)
    return _Walk(tokens, source).run()


@dataclass(slots=True)
class _Frame:
    """An open bracket. For a macro call: its variable, and the arguments counted so far."""

    macro: Token | None = None
    variable: str | None = None
    commas: int = 0


class _Walk:
    def __init__(self, tokens: tuple[Token, ...], source: str) -> None:
        self.tokens = tokens
        self.source = source
        self.references: dict[Reference, None] = {}
        self.counts: Counter[str] = Counter()
        self.stack: list[_Frame] = []
        self.whole: Reference | None = None
        self.head: tuple[Reference, int] | None = None
        self.mapped: Reference | None = None

    def run(self) -> Analysis:
        """One pass; a name that starts a chain moves on behind the chain."""
        index = 0
        while index < len(self.tokens):
            token = self.tokens[index]
            if token.kind is TokenKind.NAME:
                index = self._name(index)
                continue
            if token.kind is TokenKind.PUNCTUATION:
                self._punctuation(index)
            index += 1
        secret = self._secret()
        return Analysis(
            references=tuple(self.references),
            occurrences=self.counts["read"],
            macros=self.counts["macro"],
            pure_path=self.whole,
            secret=secret,
            tokens=len(self.tokens),
            risky_match=self.counts["risky"] > 0,
            matches=self.counts["matches"],
            mapped=self.mapped,
            mapped_end=self.tokens[self.head[1] - 1].end if self.mapped and self.head else 0,
        )

    def _text(self, index: int) -> str:
        return self.tokens[index].text if 0 <= index < len(self.tokens) else ""

    def _fail(self, problem: str, token: Token) -> ExpressionSyntaxError:
        return ExpressionSyntaxError(problem, self.source, token.start)

    def _punctuation(self, index: int) -> None:
        text = self._text(index)
        if text in "([{":
            macro = self._macro_opened(index) if text == "(" else None
            self.stack.append(_Frame(macro, self._text(index + 1) if macro else None))
        elif text in ")]}":
            self._close(self.stack.pop(), index)
        elif text == "," and self.stack:
            self.stack[-1].commas += 1

    def _macro_opened(self, index: int) -> Token | None:
        name = self._text(index - 1)
        if name not in MACROS or self._text(index - 2) != "." or not self._selects(index - 2):
            return None
        token = self.tokens[index - 1]
        follows = self.tokens[index + 1] if index + 1 < len(self.tokens) else None
        if follows is None or follows.kind is not TokenKind.NAME or self._text(index + 2) != ",":
            raise self._fail(f"{name} needs a variable and a body, as in items.{name}(i, i > 0)", token)
        self.counts["macro"] += 1
        if sum(frame.macro is not None for frame in self.stack) >= MAX_MACRO_NESTING:
            raise self._fail(
                f"map, filter, all, exists and exists_one may be nested {MAX_MACRO_NESTING} deep, not deeper; "
                "use a step with foreach or several steps",
                token,
            )
        return token

    def _close(self, frame: _Frame, index: int) -> None:
        if frame.macro is None:
            return
        least, most = MACROS[frame.macro.text]
        trailing = self._text(index - 1) == ","
        arguments = frame.commas + (0 if trailing else 1)
        if not least <= arguments <= most:
            expected = str(least) if least == most else f"{least} or {most}"
            raise self._fail(f"{frame.macro.text} takes {expected} arguments, not {arguments}", frame.macro)
        if self.head is not None and index == len(self.tokens) - 1 and frame.macro.text in ("map", "filter"):
            reference, end = self.head
            if not self.stack and self.tokens[end + 1] is frame.macro:
                self.mapped = reference

    def _selects(self, dot: int) -> bool:
        """Whether the dot at this index picks a field (a leading dot starts a name)."""
        if dot == 0:
            return False
        before = self.tokens[dot - 1]
        return before.kind is not TokenKind.PUNCTUATION or before.text in ")]}"

    def _name(self, index: int) -> int:
        token = self.tokens[index]
        if self._text(index - 1) == "." and index > 0 and self._selects(index - 1):
            return index + 1
        if token.text in _LITERAL_NAMES:
            return index + 1
        follows = self._text(index + 1)
        if follows == "(":
            if token.text == "matches":  # the function form; methods are counted by _count_matches
                self.counts["matches"] += 1
                self.counts["risky"] += 1
            return index + 1
        path, end = self._chain(index + 1)
        if self._text(end) == "{":
            raise self._fail("messages cannot be built here; write a map such as {'a': 1}", token)
        self._found(token, path, index, end)
        return end

    def _found(self, token: Token, path: tuple[str, ...], index: int, end: int) -> None:
        self.counts["read"] += 1
        if any(self._binds(frame, token, index) for frame in self.stack) or token.text in BUILTIN_NAMES:
            return
        if token.text == "steps" and not path:
            raise self._fail(
                'steps needs a literal step id, as in steps.charge.output or steps["charge"].output', token
            )
        reference = Reference(token.text, path)
        self.references[reference] = None
        if index == 0:
            self.head = (reference, end)
            self.whole = reference if end == len(self.tokens) else None

    def _binds(self, frame: _Frame, token: Token, index: int) -> bool:
        if frame.variable != token.text:
            return False
        return frame.commas > 0 or self._text(index + 1) == ","

    def _chain(self, index: int) -> tuple[tuple[str, ...], int]:
        path: list[str] = []
        while True:
            text = self._text(index)
            if text == "." and index + 1 < len(self.tokens):
                field = self.tokens[index + 1]
                if field.kind is not TokenKind.NAME:
                    break
                if self._text(index + 2) == "(":
                    break
                path.append(field.text)
                index += 2
            elif text == "[" and self._text(index + 2) == "]":
                key = literal_text(self.tokens[index + 1])
                if key is None:
                    break
                path.append(key)
                index += 3
            else:
                break
        return tuple(path), index

    def _secret(self) -> str | None:
        self._count_matches()
        named = [reference for reference in self.references if reference.root == "secrets"]
        if not named:
            return None
        if self.whole is None or len(self.whole.path) != 1:
            raise ExpressionSyntaxError(
                "a secret cannot be part of a larger expression; write {{ secrets.NAME }} alone, "
                'text around it is allowed: "Bearer {{ secrets.NAME }}"',
                self.source,
                next((token.start for token in self.tokens if token.text == "secrets"), 0),
            )
        return self.whole.path[0]

    def _count_matches(self) -> None:
        for index, token in enumerate(self.tokens):
            if token.text != "matches" or self._text(index - 1) != "." or self._text(index + 1) != "(" or index == 0:
                continue
            self.counts["matches"] += 1
            pattern = self._text(index + 2)
            if self._text(index + 3) != ")" or costly_pattern(self.tokens[index + 2], pattern):
                self.counts["risky"] += 1


def literal_text(token: Token) -> str | None:
    """The text of a plain string literal; None for other tokens and for literals with escapes."""
    if token.kind is not TokenKind.STRING:
        return None
    raw = token.text[0] in "rR"
    quoted = token.text[1:] if raw else token.text
    if "\\" in quoted and not raw:
        return None
    width = 3 if len(quoted) >= 6 and quoted[:3] in ('"""', "'''") else 1
    return quoted[width:-width]


def costly_pattern(token: Token, pattern: str) -> bool:
    """Whether compiling this regular expression may take long: counted repetitions and classes multiply."""
    return token.kind is not TokenKind.STRING or len(pattern) > 128 or "{" in pattern or pattern.count("\\") > 8
