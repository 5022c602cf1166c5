"""JSON Schema 2020-12: compiled once, never fetching anything, and faults worded for people.

Schemas come from authors and from foreign OpenAPI documents. References outside the schema are refused rather than
retrieved, and a regular expression that backtracks too long counts as no match.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeAlias

import jsonschema_rs
import orjson
from jsonschema_rs import Draft202012Validator, ValidationError, ValidationErrorKind

from core.errors import Fault
from core.json import JsonValue, depth
from engine.json_path import child, join
from engine.wording import did_you_mean, listed, nearest, sentence, shortened

DIALECT = "https://json-schema.org/draft/2020-12/schema"

MAX_SCHEMA_DEPTH = 60
MAX_SCHEMA_BYTES = 256 * 1024
MAX_FAULTS = 100
"""Faults that are reported of one value; the rest follows when these are mended."""

_MANY_VALUES = 2_000
_BACKTRACK_LIMIT = 20_000
_SHOWN = 60

Undecided: TypeAlias = Callable[[ValidationError], bool]
"""Whether an error may vanish once the expressions in the value are resolved."""


class SchemaError(ValueError):
    """The schema is not a JSON Schema that can be used here. The message is a sentence for its author."""


@lru_cache(maxsize=2_048)
def _compile(encoded: bytes) -> Draft202012Validator:
    schema = orjson.loads(encoded)
    try:
        return Draft202012Validator(
            schema,
            offline=True,
            validate_formats=True,
            pattern_options=jsonschema_rs.FancyRegexOptions(backtrack_limit=_BACKTRACK_LIMIT),
        )
    except ValidationError as error:
        raise SchemaError(_schema_sentence(error)) from None
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        raise SchemaError(str(error).splitlines()[0]) from None


def validator_of(schema: dict[str, Any]) -> Draft202012Validator:
    """The compiled validator of a schema; equal schemas share one.

    Raises:
        SchemaError: not a JSON Schema 2020-12, or it refers to something outside itself.
    """
    try:
        encoded = orjson.dumps(schema)
    except (TypeError, orjson.JSONEncodeError) as error:
        raise SchemaError(f"the schema is not JSON: {error}") from None
    return _compile(encoded)


def check_schema(schema: JsonValue) -> None:
    """Raise SchemaError when `schema` is not a JSON Schema 2020-12 object that stands alone and has a sane size."""
    if not isinstance(schema, dict):
        raise SchemaError(f"must be an object, not {kind_of(schema)}")
    if depth(schema, MAX_SCHEMA_DEPTH) > MAX_SCHEMA_DEPTH:
        raise SchemaError(f"nested deeper than {MAX_SCHEMA_DEPTH} levels")
    dialect = schema.get("$schema", DIALECT)
    if not isinstance(dialect, str) or dialect.rstrip("#") != DIALECT:
        raise SchemaError(f"only the dialect {DIALECT} is understood; leave `$schema` out")
    validator_of(schema)
    if len(orjson.dumps(schema)) > MAX_SCHEMA_BYTES:
        raise SchemaError(f"larger than {MAX_SCHEMA_BYTES} bytes")


def kind_of(value: JsonValue) -> str:
    """The value's type as a sentence names it."""
    if value is None:
        return "null"
    for kind, name in ((bool, "a boolean"), (str, "a string"), ((int, float), "a number"), (list, "a list")):
        if isinstance(value, kind):
            return name
    return "an object"


def value_faults(
    schema: dict[str, Any],
    value: JsonValue,
    root: str,
    *,
    noun: str = "field",
    undecided: Undecided | None = None,
) -> Iterator[Fault]:
    """What keeps `value` from satisfying `schema`, at most MAX_FAULTS.

    Args:
        root: JSON path of the value.
        noun: what a member of the value is called; also in the codes `missing_<noun>` and `unknown_<noun>`.
        undecided: errors for which this is true are not reported.

    Raises:
        SchemaError: see `validator_of`.
    """
    reported = 0
    for error in _errors(validator_of(schema), value, every=undecided is not None):
        if undecided is not None and undecided(error):
            continue
        for fault in _faults(schema, error, root, noun):
            yield replace(fault, message=sentence(fault.message))
            reported += 1
            if reported >= MAX_FAULTS:
                return


def _errors(validator: Draft202012Validator, value: JsonValue, every: bool) -> Iterator[ValidationError]:
    """All errors; of a large value only the first, because finding all takes 13 µs for each, wanted or not."""
    if every or not _has_many_values(value):
        yield from validator.iter_errors(value)
        return
    try:
        validator.validate(value)
    except ValidationError as error:
        yield error


def _has_many_values(value: JsonValue) -> bool:
    rest = [value]
    seen = 0
    while rest:
        one = rest.pop()
        if isinstance(one, (dict, list)):
            seen += len(one)
            if seen > _MANY_VALUES:
                return True
            rest.extend(one.values() if isinstance(one, dict) else one)
    return False


def _faults(schema: dict[str, Any], error: ValidationError, root: str, noun: str) -> Iterator[Fault]:
    path = join(root, error.instance_path)
    kind = error.kind
    match kind:
        case ValidationErrorKind.Required():
            yield Fault(child(path, kind.property), f"missing_{noun}", f"the {noun} `{kind.property}` is missing")
        case ValidationErrorKind.AdditionalProperties() | ValidationErrorKind.UnevaluatedProperties():
            known = _properties(schema, error.schema_path[:-1])
            for name in kind.unexpected:
                suggestion = nearest(name, known)
                allowed = f"; allowed are {listed(sorted(known))}" if known and not suggestion else ""
                message = f"there is no {noun} `{name}`{did_you_mean(suggestion) or allowed}"
                yield Fault(child(path, name), f"unknown_{noun}", message, suggestion)
        case ValidationErrorKind.Type():
            wanted = " or ".join(_TYPE_NAMES.get(one, one) for one in kind.types)
            yield Fault(path, "wrong_type", f"{_name(error, noun)} must be {wanted}, not {_shown(error.instance)}")
        case ValidationErrorKind.Enum():
            options = [one if isinstance(one, str) else orjson.dumps(one).decode() for one in kind.options]
            suggestion = nearest(error.instance, options) if isinstance(error.instance, str) else None
            message = f"{_name(error, noun)} must be one of {listed(options)}, not {_shown(error.instance)}"
            yield Fault(path, "bad_value", message, suggestion)
        case ValidationErrorKind.AnyOf() | ValidationErrorKind.OneOfNotValid():
            yield _alternatives(error, path, noun, kind.context)
        case _:
            yield Fault(path, "bad_value", f"{_name(error, noun)}: {shortened(error.message, 300)}")


def _alternatives(error: ValidationError, path: str, noun: str, context: Sequence[Sequence[ValidationError]]) -> Fault:
    """One fault for a value that fits none of several forms, said by type where types alone decide."""
    flat = [one for branch in context for one in branch]
    wanted: dict[str, None] = {}
    for one in flat:
        if not isinstance(one.kind, ValidationErrorKind.Type) or one.instance_path != error.instance_path:
            break
        wanted.update(dict.fromkeys(_TYPE_NAMES.get(name, name) for name in one.kind.types))
    else:
        message = f"{_name(error, noun)} must be {' or '.join(wanted)}, not {_shown(error.instance)}"
        return Fault(path, "wrong_type", message)
    reasons = dict.fromkeys(shortened(branch[0].message, 120) for branch in context if branch)
    return Fault(path, "bad_value", f"{_name(error, noun)} fits none of the allowed forms: {' / '.join(reasons)}")


_TYPE_NAMES = {
    "integer": "an integer",
    "number": "a number",
    "string": "a string",
    "boolean": "a boolean",
    "array": "a list",
    "object": "an object",
    "null": "null",
}


def _name(error: ValidationError, noun: str) -> str:
    names = [one for one in error.instance_path if isinstance(one, str)]
    return f"`{names[-1]}`" if names else f"the {noun} value" if error.instance_path else "the value"


def _shown(value: JsonValue) -> str:
    if value is None or isinstance(value, (dict, list)):
        return kind_of(value)
    return f"{kind_of(value)} ({shortened(orjson.dumps(value, default=str).decode(), _SHOWN)})" if value != "" else '""'


def _properties(schema: Any, path: Sequence[str | int]) -> list[str]:
    """The members that the sub-schema at `path` describes."""
    for key in path:
        if isinstance(schema, dict):
            schema = schema.get(str(key))
        elif isinstance(schema, list) and isinstance(key, int):
            schema = schema[key]
    properties = schema.get("properties") if isinstance(schema, dict) else None
    return list(properties) if isinstance(properties, dict) else []


def _schema_sentence(error: ValidationError) -> str:
    if isinstance(error.kind, ValidationErrorKind.Referencing):
        return "it refers to something outside itself, which is never fetched; put it under `$defs`: " + shortened(
            error.message.split(" and retrieving")[0], 200
        )
    where = join("$", error.instance_path)
    return f"not a valid JSON Schema 2020-12 at {where}: {shortened(error.message, 200)}"
