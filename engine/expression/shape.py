"""Puts the results of a template's expressions into its shape."""

from core.json import JsonValue
from engine.expression.result import MAX_RESULT, BadResult, as_text, size_of
from engine.expression.secret import SecretName, SecretText
from engine.expression.template import Constant, ListOf, Node, ObjectOf, Template, Text, Whole


def build(template: Template, values: list[JsonValue]) -> JsonValue:
    """The template's value; `values` are the results of `template.programs` in order.

    Raises:
        BadResult: the results, as often as they are used, are larger than MAX_RESULT in all.
    """
    root = template.root
    if type(root) is Whole:
        return values[root.slot]
    total = sum(size_of(value) * uses for value, uses in zip(values, template.uses, strict=True))
    if total > MAX_RESULT:
        raise BadResult(f"the value with its expressions is larger than {MAX_RESULT} bytes; pass only what is used")
    return _Builder(values).node(root)


class _Builder:
    def __init__(self, values: list[JsonValue]) -> None:
        self.values = values
        self.texts: dict[int, str] = {}

    def node(self, node: Node) -> JsonValue:
        match node:
            case Constant(value):
                return value
            case Whole(slot):
                return self.values[slot]
            case Text():
                return self._text(node)
            case ListOf(items):
                return [self.node(one) for one in items]
            case ObjectOf(items):
                return {key: self.node(one) for key, one in items}

    def _text(self, node: Text) -> JsonValue:
        if not node.has_secret:
            return "".join([part if isinstance(part, str) else self._slot(part) for part in node.parts])
        parts: list[str | SecretName] = []
        for part in node.parts:
            if isinstance(part, SecretName):
                parts.append(part)
                continue
            text = part if isinstance(part, str) else self._slot(part)
            if parts and isinstance(parts[-1], str):
                parts[-1] += text
            else:
                parts.append(text)
        return SecretText(tuple(parts))

    def _slot(self, part: int | SecretName) -> str:
        assert isinstance(part, int)
        text = self.texts.get(part)
        if text is None:
            text = self.texts[part] = as_text(self.values[part])
        return text
