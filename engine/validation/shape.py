"""Faults of shape: what pydantic finds wrong with the document, in the words and paths of its author."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from core.errors import ErrorClass, Fault
from core.json import JsonValue
from core.spec import WorkflowSpec
from core.trigger import Trigger
from engine.json_path import join
from engine.json_schema import kind_of
from engine.wording import did_you_mean, listed, nearest, shortened

_WANTED = {
    "string_type": "a string",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "list_type": "a list",
    "tuple_type": "a list",
    "frozen_set_type": "a list",
}
_FORMS = {
    "id": "starts with a letter or _, goes on with letters, digits, _ and -, and has at most 64 characters",
    "use": "is the id of another step",
    "name": "starts with a letter or _, goes on with letters, digits, _, . and -, and has at most 128 characters",
    "node": "is `name`, `name@1.2.0` or `name@^1`",
    "needs": "holds ids of steps",
}
_UNIONS = {"when": "true, false or one expression in {{ }}", "foreach": "a list or one expression in {{ }}"}
_Union: TypeAlias = Callable[[str, str, JsonValue], Fault | None]
"""Words a fault from its path, the field's name and what stands there."""
_CONCURRENCY = ["policies", "concurrency"]
_TRIGGERS = [get_args(one.model_fields["type"].annotation)[0] for one in get_args(get_args(Trigger)[0])]


def read_spec(document: dict[str, JsonValue]) -> tuple[WorkflowSpec | None, list[Fault]]:
    """The spec, or None and the faults of its shape (which may be left to the checks of meaning to report)."""
    faults = [
        Fault(f"$.steps[{index}].with_", "unknown_field", "there is no field `with_`; did you mean `with`?", "with")
        for index, step in enumerate(_list(document.get("steps")))
        if isinstance(step, dict) and "with_" in step
    ]
    try:
        return (None if faults else WorkflowSpec.model_validate(document)), faults
    except ValidationError as error:
        for one in error.errors(include_url=False):
            fault = _fault(document, one)
            # A value that fits no branch of a union has one error for each branch.
            if fault is not None and not any(fault.path == known.path for known in faults[-2:]):
                faults.append(fault)
    return None, faults


def _list(value: JsonValue) -> list[JsonValue]:
    return value if isinstance(value, list) else []


def _fault(document: JsonValue, error: ErrorDetails) -> Fault | None:
    if error["type"] == "too_short" and error["input"]:
        return None  # pydantic also counts the elements that are right
    keys = _keys(document, error)
    path, kind, name = join("$", keys), error["type"], _name(keys)
    union = _union_of(keys, kind)
    if union is not None:
        return union(path, name, error["input"])
    if kind == "missing":
        return Fault(path, "missing_field", f"the field `{name}` is missing")
    if kind == "extra_forbidden":
        known = _fields_at(document, keys[:-1])
        suggestion = nearest(name, known)
        hint = did_you_mean(suggestion) or f"; allowed are {listed(known)}"
        return Fault(path, "unknown_field", f"there is no field `{name}`{hint}", suggestion)
    if kind in _WANTED:
        return Fault(path, "wrong_type", f"{_subject(keys)} must be {_WANTED[kind]}, not {kind_of(error['input'])}")
    return _bad_value(path, name, error)


def _union_of(keys: list[str | int], kind: str) -> _Union | None:
    """Who words the fault of a field that has several forms."""
    field = keys[2] if len(keys) > 2 and keys[0] == "steps" else None
    if field in _UNIONS:
        return _several
    if field == "on_error" and len(keys) == 3:
        return _on_error
    if keys == _CONCURRENCY and kind in _WANTED:
        return _concurrency
    return _tag if kind.startswith("union_tag") else None


def _several(path: str, name: str, given: JsonValue) -> Fault:
    return Fault(path, "wrong_type", f"`{name}` must be {_UNIONS[name]}, not {kind_of(given)}")


def _on_error(path: str, name: str, given: JsonValue) -> Fault | None:
    if isinstance(given, dict):
        return None  # the errors inside the object say more
    sentence = f"`{name}` is `fail`, `continue` or `{{use: other_step}}`"
    return Fault(path, "bad_value", sentence, _nearest(given, ["fail", "continue"]))


def _concurrency(path: str, name: str, given: JsonValue) -> Fault | None:
    if isinstance(given, dict):
        return None  # the errors inside the object say more
    return Fault(path, "wrong_type", f"`{name}` must be a whole number or `{{max, key}}`, not {kind_of(given)}")


def _tag(path: str, name: str, given: JsonValue) -> Fault:
    """A trigger without a type, or with one that there is not."""
    kind = given.get("type") if isinstance(given, dict) else None
    if kind is None:
        return Fault(f"{path}.type", "missing_field", f"the field `type` is missing; it is one of {listed(_TRIGGERS)}")
    suggestion = _nearest(kind, _TRIGGERS)
    said = f"`type` must be one of {listed(_TRIGGERS)}, not `{shortened(str(kind), 60)}`{did_you_mean(suggestion)}"
    return Fault(f"{path}.type", "bad_value", said, suggestion)


def _bad_value(path: str, name: str, error: ErrorDetails) -> Fault:
    given, said = error["input"], error["msg"].removeprefix("Value error, ")
    shown = shortened(str(given), 60)
    match error["type"]:
        case "string_pattern_mismatch" if path.startswith("$.variables"):
            return Fault(path, "bad_value", f"`{shown}` is no name of a variable: such a name {_FORMS['name']}")
        case "string_pattern_mismatch":
            return Fault(path, "bad_value", f"`{shown}` cannot stand here: `{name}` {_FORMS.get(name, said)}")
        case "enum" | "literal_error":
            options = [one.value for one in ErrorClass] if name == "on" else []
            allowed = f"must be one of {listed(options)}" if options else said[:1].lower() + said[1:]
            suggestion = _nearest(given, options or _quoted(said))
            return Fault(path, "bad_value", f"`{name}`: `{shown}` {allowed}{did_you_mean(suggestion)}", suggestion)
        case "too_short" if path == "$.steps":
            return Fault(path, "bad_value", "a workflow has at least one step")
    return Fault(path, "bad_value", f"`{name}`: {said[:1].lower()}{said[1:]}")


def _nearest(given: object, options: list[str]) -> str | None:
    return nearest(given, options) if isinstance(given, str) else None


def _quoted(said: str) -> list[str]:
    return said.split("'")[1::2]


def _name(keys: list[str | int]) -> str:
    return next((key for key in reversed(keys) if isinstance(key, str)), "workflow")


def _subject(keys: list[str | int]) -> str:
    element = keys and isinstance(keys[-1], int)
    return f"each element of `{_name(keys)}`" if element else f"`{_name(keys)}`"


def _keys(document: JsonValue, error: ErrorDetails) -> list[str | int]:
    """The error's place in the document; pydantic also names the branch of a union, which is no place."""
    keys: list[str | int] = []
    value: Any = document
    for position, key in enumerate(error["loc"]):
        if (isinstance(value, dict) and key in value) or (isinstance(value, list) and isinstance(key, int)):
            value = value[key]  # type: ignore[index]  # an int wherever it is a list
        elif error["type"] != "missing" or position != len(error["loc"]) - 1:
            continue
        keys.append(key)
    return keys


def _fields_at(document: JsonValue, keys: list[str | int]) -> list[str]:
    """The fields of the spec's part that `keys` lead to."""
    model: type[BaseModel] = WorkflowSpec
    value: Any = document
    for key in keys:
        value = value[key]
        if isinstance(key, str):
            field = next((one for name, one in model.model_fields.items() if (one.alias or name) == key), None)
            annotation = field.annotation if field is not None else None
        inner = _model_in(annotation, value)
        if isinstance(key, str) and inner is None:
            return []
        model = inner or model
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any, value: JsonValue) -> type[BaseModel] | None:
    """The model in an annotation; of several, the one for the `type` that the value has."""
    models = list(_models_in(annotation))
    kind = value.get("type") if isinstance(value, dict) else None
    tagged = [
        one for one in models if "type" in one.model_fields and kind in get_args(one.model_fields["type"].annotation)
    ]
    return next(iter([*tagged, *models]), None)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if inspect.isclass(annotation) and not get_args(annotation):
        if issubclass(annotation, BaseModel):
            yield annotation
        return
    for one in get_args(annotation):
        yield from _models_in(one)
