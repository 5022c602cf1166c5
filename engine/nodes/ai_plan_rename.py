"""Gives the steps of a plan their final names wherever its expressions refer to them. Pure."""

from collections.abc import Collection, Mapping, Sequence

from core.json import JsonValue
from engine.expression.errors import ExpressionSyntaxError
from engine.expression.lexer import Token, TokenKind, tokenize, tokenize_until_close
from engine.expression.references import literal_text

_ROOT = "steps"


def rename_params(
    params: Mapping[str, JsonValue], names: Mapping[str, str], expression_fields: Collection[str]
) -> dict[str, JsonValue]:
    """The parameters of a step with new names of steps.

    Args:
        names: the new name by the old one; steps that are not in it keep theirs.
        expression_fields: parameters whose text is itself CEL.

    Raises:
        ExpressionSyntaxError: an expression cannot be read, or uses `steps` for something else.
    """
    return {
        key: _expression(value, tokenize(value), names)
        if key in expression_fields and isinstance(value, str)
        else rename_value(value, names)
        for key, value in params.items()
    }


def rename_value(value: JsonValue, names: Mapping[str, str]) -> JsonValue:
    """A value with expressions in its texts, with new names of steps. Raises ExpressionSyntaxError."""
    if isinstance(value, str):
        return _text(value, names)
    if isinstance(value, dict):
        return {key: rename_value(one, names) for key, one in value.items()}
    if isinstance(value, list):
        return [rename_value(one, names) for one in value]
    return value


def _text(text: str, names: Mapping[str, str]) -> str:
    parts: list[str] = []
    position = 0
    while (opened := text.find("{{", position)) >= 0:
        parts.append(text[position : opened + 2])
        position = opened + 2
        if opened > 0 and text[opened - 1] == "\\" and len(parts[-1]) > 2:
            continue
        tokens, source, end = tokenize_until_close(text, opened + 2)
        parts += [_expression(source, tokens, names), "}}"]
        position = end
    return "".join([*parts, text[position:]])


def _expression(source: str, tokens: Sequence[Token], names: Mapping[str, str]) -> str:
    parts: list[str] = []
    position = 0
    for index, token in enumerate(tokens):
        if token.kind is not TokenKind.NAME or token.text != _ROOT or _is_field(tokens, index):
            continue
        name, end = _named(tokens, index)
        if name is None:
            # A macro's variable of that name would hide the steps.
            raise ExpressionSyntaxError(
                "`steps` is followed by a literal step id and nothing else", source, token.start
            )
        if name in names:
            parts += [source[position : token.end], _access(names[name])]
            position = end
    return "".join([*parts, source[position:]])


def _is_field(tokens: Sequence[Token], index: int) -> bool:
    """Whether the name stands behind a dot that selects a field."""
    if index < 2 or tokens[index - 1].text != ".":
        return False
    before = tokens[index - 2]
    return before.kind is not TokenKind.PUNCTUATION or before.text in ")]}"


def _named(tokens: Sequence[Token], index: int) -> tuple[str | None, int]:
    """The step that is named behind `steps`, and where that name ends."""
    follows = tokens[index + 1 : index + 4]
    if len(follows) > 1 and follows[0].text == "." and follows[1].kind is TokenKind.NAME:
        return follows[1].text, follows[1].end
    if len(follows) > 2 and (follows[0].text, follows[2].text) == ("[", "]"):
        return literal_text(follows[1]), follows[2].end
    return None, 0


def _access(name: str) -> str:
    return f".{name}" if name.isidentifier() else f'["{name}"]'
