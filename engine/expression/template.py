r"""Values with expressions in them: `{"amount": "{{ input.amount }}"}`.

A value is compiled once. A string that is exactly one expression gives the expression's value with its type; other
strings are interpolated. `\{{` stands for a literal `{{`. Keys of objects are taken as they are. Evaluation is one
pass: what an expression gives is never looked at for further expressions.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

from core.json import MAX_DEPTH, JsonValue, depth
from engine.expression.errors import ExpressionSyntaxError
from engine.expression.lexer import tokenize_until_close
from engine.expression.program import Expression, compile_expression
from engine.expression.references import Reference
from engine.expression.secret import SecretName

MAX_EXPRESSIONS = 1_000
"""Expressions in one template."""

MAX_TEMPLATE_SOURCE = 65_536
"""Characters of all expressions of a template together."""

MAX_TEMPLATE_TOKENS = 6_000
"""Tokens of all expressions of a template together: compiling them stays below 50 ms."""


@dataclass(frozen=True, slots=True)
class Constant:
    """A value without expressions; given out as it is, so nobody may change it."""

    value: JsonValue


@dataclass(frozen=True, slots=True)
class Whole:
    """A string that is one expression: index into the template's programs."""

    slot: int


@dataclass(frozen=True, slots=True)
class Text:
    """A string with expressions (indices) or secrets between its literal parts."""

    parts: tuple[str | int | SecretName, ...]

    @property
    def has_secret(self) -> bool:
        """Whether it resolves to a SecretText."""
        return any(isinstance(part, SecretName) for part in self.parts)


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list with an expression somewhere in it."""

    items: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class ObjectOf:
    """An object with an expression somewhere in it."""

    items: tuple[tuple[str, "Node"], ...]


Node: TypeAlias = Constant | Whole | Text | ListOf | ObjectOf


@dataclass(frozen=True, slots=True)
class TemplateExpression:
    """An expression as it stands in a template, for validation.

    Attributes:
        path: JSON path of its string, such as `$.body.items[2]`.
        source: the expression without its braces.
        references: what it refers to.
        whole: it is the whole string, so its type is kept.
    """

    path: str
    source: str
    references: tuple[Reference, ...]
    whole: bool


@dataclass(frozen=True, slots=True)
class Template:
    """A compiled value. Equal expressions are evaluated once.

    Attributes:
        root: the value's shape.
        programs: its different expressions.
        uses: how often each program's result stands in the value.
        expressions: every expression with its place, for validation.
        references: what all expressions refer to, without duplicates.
        step_ids: steps that it needs.
        secret_names: secrets that it needs.
    """

    root: Node
    programs: tuple[Expression, ...]
    uses: tuple[int, ...]
    expressions: tuple[TemplateExpression, ...]
    references: tuple[Reference, ...]
    step_ids: frozenset[str]
    secret_names: frozenset[str]

    @property
    def is_constant(self) -> bool:
        """Whether it resolves to the same value in every scope."""
        return not self.programs and not self.secret_names


def compile_template(value: JsonValue) -> Template:
    """Compile a value whose strings may hold expressions.

    Raises:
        ExpressionSyntaxError: an expression is wrong, a `{{` has no end, the value is nested deeper than
            core.json.MAX_DEPTH, or there are too many expressions. Its `path` says where.
    """
    if depth(value) > MAX_DEPTH:
        raise ExpressionSyntaxError(f"the value is nested deeper than {MAX_DEPTH} levels", "", 0)
    return _Compiler().compile(value)


@dataclass(slots=True)
class _Compiler:
    slots: dict[str, int] = field(default_factory=dict)
    programs: list[Expression] = field(default_factory=list)
    uses: list[int] = field(default_factory=list)
    expressions: list[TemplateExpression] = field(default_factory=list)
    secrets: set[str] = field(default_factory=set)
    characters: int = 0
    tokens: int = 0

    def compile(self, value: JsonValue) -> Template:
        root = self._node(value, "$")
        references = tuple(dict.fromkeys(ref for program in self.programs for ref in program.analysis.references))
        return Template(
            root=root,
            programs=tuple(self.programs),
            uses=tuple(self.uses),
            expressions=tuple(self.expressions),
            references=references,
            step_ids=frozenset(ref.path[0] for ref in references if ref.root == "steps"),
            secret_names=frozenset(self.secrets),
        )

    def _node(self, value: JsonValue, path: str) -> Node:
        if isinstance(value, str):
            if "{{" not in value:
                return Constant(value)
            try:
                return self._string(value, path)
            except ExpressionSyntaxError as error:
                raise error.at(path) from None
        if isinstance(value, dict):
            fields = tuple((key, self._node(one, path + step_of(key))) for key, one in value.items())
            return Constant(value) if all(_is_same(node, value[key]) for key, node in fields) else ObjectOf(fields)
        if isinstance(value, list):
            items = tuple(self._node(one, f"{path}[{index}]") for index, one in enumerate(value))
            same = all(_is_same(node, one) for node, one in zip(items, value, strict=True))
            return Constant(value) if same else ListOf(items)
        return Constant(value)

    def _string(self, text: str, path: str) -> Node:
        parts: list[str | int | SecretName] = []
        literal: list[str] = []
        stripped = text.strip()
        position = 0
        while (opened := text.find("{{", position)) >= 0:
            if opened > position and text[opened - 1] == "\\":
                literal.append(text[position : opened - 1] + "{{")
                position = opened + 2
                continue
            literal.append(text[position:opened])
            tokens, source, position = tokenize_until_close(text, opened + 2)
            whole = len(stripped) == position - opened and stripped.startswith("{{")
            parts += [joined] if (joined := "".join(literal)) else []
            literal = []
            self.tokens += len(tokens)
            part = self._expression(source.strip(), path, whole)
            if whole and isinstance(part, int):
                return Whole(part)
            # Spaces around a lone secret are as meaningless as around any lone expression.
            if whole:
                return Text((part,))
            parts.append(part)
        literal.append(text[position:])
        tail = "".join(literal)
        if not parts:
            return Constant(tail)
        return Text((*parts, tail) if tail else tuple(parts))

    def _expression(self, source: str, path: str, whole: bool) -> int | SecretName:
        self.characters += len(source)
        if (
            len(self.expressions) >= MAX_EXPRESSIONS
            or self.characters > MAX_TEMPLATE_SOURCE
            or self.tokens > MAX_TEMPLATE_TOKENS
        ):
            raise ExpressionSyntaxError(
                f"one value may hold {MAX_EXPRESSIONS} expressions, {MAX_TEMPLATE_SOURCE} characters and "
                f"{MAX_TEMPLATE_TOKENS} tokens of them in all; split it over several steps",
                source,
                0,
            )
        expression = compile_expression(source)
        analysis = expression.analysis
        self.expressions.append(TemplateExpression(path, source, analysis.references, whole))
        if analysis.secret is not None:
            self.secrets.add(analysis.secret)
            return SecretName(analysis.secret)
        slot = self.slots.setdefault(source, len(self.programs))
        if slot == len(self.programs):
            self.programs.append(expression)
            self.uses.append(0)
        self.uses[slot] += 1
        return slot


def _is_same(node: Node, value: JsonValue) -> bool:
    """Whether the node gives exactly this value (an escaped string is constant, but another one)."""
    return isinstance(node, Constant) and node.value is value


def step_of(key: str) -> str:
    """One step of a JSON path."""
    if key.isidentifier():
        return f".{key}"
    escaped = key.replace("\\", "\\\\").replace('"', '\\"')
    return f'["{escaped}"]'
