"""Faults of parameters: what a step passes, against the schema of its node.

The values of expressions are not known yet. One that is a whole string may become anything, one with text around it
becomes some string. So the raw values are checked, and an error is dropped when a suitable value could make it vanish.
"""

from collections.abc import Iterator, Sequence

from jsonschema_rs import ValidationError, ValidationErrorKind

from core.errors import Fault
from core.json import JsonValue
from core.manifest import NodeManifest
from engine.expression.template import TemplateExpression
from engine.json_path import contains, join
from engine.json_schema import SchemaError, validator_of, value_faults

_WHOLE_VALUE = (
    ValidationErrorKind.Constant,
    ValidationErrorKind.Contains,
    ValidationErrorKind.Enum,
    ValidationErrorKind.Not,
    ValidationErrorKind.OneOfMultipleValid,
    ValidationErrorKind.UnevaluatedItems,
    ValidationErrorKind.UnevaluatedProperties,
    ValidationErrorKind.UniqueItems,
)
"""Errors that depend on everything inside the value."""


def parameter_faults(
    manifest: NodeManifest, params: dict[str, JsonValue], path: str, expressions: Sequence[TemplateExpression]
) -> Iterator[Fault]:
    """What no values of the expressions could make right. `path` is that of `with`."""
    schema = {key: value for key, value in manifest.input_schema.items() if key != "$schema"}
    try:
        if validator_of(schema).is_valid(params):
            return
        yield from value_faults(
            schema, params, path, noun="parameter", undecided=_Undecided(path, expressions).__call__
        )
    except SchemaError as error:
        # A stored version with a broken schema: the steps that use it must say so rather than fail when they run.
        yield Fault(path, "bad_schema", f"the input schema of {manifest.name}@{manifest.version}: {error}")


class _Undecided:
    """Whether an error may vanish once the expressions are resolved."""

    def __init__(self, root: str, expressions: Sequence[TemplateExpression]) -> None:
        self._root = root
        secret = {one.path for one in expressions if any(ref.root == "secrets" for ref in one.references)}
        self._wholes = {one.path for one in expressions if one.whole} - secret
        self._texts = {one.path for one in expressions} - self._wholes
        self._all = self._wholes | self._texts

    def __call__(self, error: ValidationError) -> bool:
        if not self._all:
            return False
        path = join(self._root, error.instance_path)
        if any(contains(whole, path) for whole in self._wholes):
            return True
        kind = error.kind
        if isinstance(kind, (ValidationErrorKind.AnyOf, ValidationErrorKind.OneOfNotValid)):
            return any(all(self(one) for one in branch) for branch in kind.context)
        # Which branch of a condition holds is known only when the values are.
        if not {"then", "else", "dependentSchemas"}.isdisjoint(error.schema_path):
            return True
        if path in self._texts:
            return not isinstance(kind, ValidationErrorKind.Type)
        return isinstance(kind, _WHOLE_VALUE) and any(contains(path, one) for one in self._all)
