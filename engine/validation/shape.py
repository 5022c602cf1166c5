"""Faults of shape: what pydantic finds wrong with the document, in the words and paths of its author."""

import inspect
import typing
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from core.errors import ErrorClass, Fault
from core.json import JsonValue
from core.spec import WorkflowSpec
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
    field = keys[2] if len(keys) > 2 and keys[0] == "steps" else None
    if field in _UNIONS or (field == "on_error" and len(keys) == 3):
        return _union(join("$", keys), str(field), error["input"])
    path, kind, name = join("$", keys), error["type"], _name(keys)
    if kind == "missing":
        return Fault(path, "missing_field", f"the field `{name}` is missing")
    if kind == "extra_forbidden":
        known = _fields_at(keys[:-1])
        suggestion = nearest(name, known)
        hint = did_you_mean(suggestion) or f"; allowed are {listed(known)}"
        return Fault(path, "unknown_field", f"there is no field `{name}`{hint}", suggestion)
    if kind in _WANTED:
        return Fault(path, "wrong_type", f"{_subject(keys)} must be {_WANTED[kind]}, not {kind_of(error['input'])}")
    return _bad_value(path, name, error)


def _union(path: str, field: str, given: JsonValue) -> Fault | None:
    if field != "on_error":
        return Fault(path, "wrong_type", f"`{field}` must be {_UNIONS[field]}, not {kind_of(given)}")
    if isinstance(given, dict):
        return None  # the errors inside the object say more
    sentence = "`on_error` is `fail`, `continue` or `{use: other_step}`"
    return Fault(path, "bad_value", sentence, _nearest(given, ["fail", "continue"]))


def _bad_value(path: str, name: str, error: ErrorDetails) -> Fault:
    given, said = error["input"], error["msg"].removeprefix("Value error, ")
    shown = shortened(str(given), 60)
    match error["type"]:
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


def _fields_at(keys: list[str | int]) -> list[str]:
    """The fields of the spec's part that `keys` lead to."""
    model: type[BaseModel] = WorkflowSpec
    for key in keys:
        if isinstance(key, str):
            field = next((one for name, one in model.model_fields.items() if (one.alias or name) == key), None)
            inner = _model_in(field.annotation) if field is not None else None
            if inner is None:
                return []
            model = inner
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if inspect.isclass(annotation) and not typing.get_args(annotation):
        return annotation if issubclass(annotation, BaseModel) else None
    return next((found for one in typing.get_args(annotation) if (found := _model_in(one)) is not None), None)
