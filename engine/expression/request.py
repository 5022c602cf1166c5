"""What the killable host is sent: the expression and exactly the values that it refers to."""

from collections.abc import Mapping

from core.json import JsonError, JsonValue, encode
from engine.expression.errors import ExpressionError
from engine.expression.program import Expression, compile_expression, project

_CHUNK_NAME = "chunk__"
_SPLIT_FROM = 64


def encode_request(expression: Expression, scope: Mapping[str, JsonValue]) -> bytes:
    """The body of a request.

    Raises:
        ExpressionError: the values have no JSON form.
    """
    given = project(dict(scope), expression.keep)
    try:
        return encode(
            {
                "source": expression.source,
                "scope": given,
                "macros": expression.analysis.macros > 0,
                "split": _split(expression, given),
            }
        )
    except JsonError as error:
        raise ExpressionError(str(error), expression.source) from None


def _split(expression: Expression, given: Mapping[str, JsonValue]) -> JsonValue:
    """How to evaluate `list.map(…)` over a long list in pieces; None when it is not of that form."""
    mapped = expression.analysis.mapped
    if mapped is None or _CHUNK_NAME in expression.source:
        return None
    value: JsonValue = given
    for key in (mapped.root, *mapped.path):
        if not isinstance(value, dict) or key not in value:
            return None
        value = value[key]
    if not isinstance(value, list) or len(value) <= _SPLIT_FROM:
        return None
    piece = compile_expression(_CHUNK_NAME + expression.source[expression.analysis.mapped_end :])
    roots = sorted({reference.root for reference in piece.analysis.references} - {_CHUNK_NAME})
    return {"source": piece.source, "path": [mapped.root, *mapped.path], "roots": roots, "name": _CHUNK_NAME}
