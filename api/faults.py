"""What pydantic finds wrong with a request, in words for the one who sent it. Never says what stood there."""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from core.errors import Fault
from core.json import JsonValue
from engine.wording import did_you_mean, listed, nearest, shortened

_CODES = {"extra_forbidden": "unknown_field", "missing": "missing_field"}
_WANTED = {
    "string_type": "a text",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a JSON object",
    "model_type": "a JSON object",
}


def model_faults(error: ValidationError, model: type[BaseModel], document: JsonValue) -> list[Fault]:
    """A fault for each wrong place of a body that was to be `model`."""
    found: dict[str, Fault] = {}
    wanted: dict[str, list[str]] = {}
    for one in error.errors(include_url=False, include_input=False, include_context=False):
        place = _place(document, one)
        path = "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
        found.setdefault(path, _fault(one["type"], path, place, model, one["msg"]))
        if one["type"] in _WANTED:
            wanted.setdefault(path, []).append(_WANTED[one["type"]])
    # What fits no branch of a union has one error for each branch.
    for path, kinds in wanted.items():
        found[path] = Fault(path, found[path].code, f"must be {' or '.join(dict.fromkeys(kinds))}")
    return list(found.values())


def query_faults(errors: Sequence[Any]) -> list[Fault]:
    """A fault for each error of the parameters of a request."""
    return [Fault("$." + ".".join(map(str, one["loc"])), one["type"], _plain(one["msg"])) for one in errors]


def _place(document: JsonValue, error: ErrorDetails) -> list[int | str]:
    """Where an error is; pydantic also names the branch of a union, which is no place."""
    place: list[int | str] = []
    value: Any = document
    for position, key in enumerate(error["loc"]):
        if (isinstance(value, dict) and key in value) or (isinstance(value, list) and isinstance(key, int)):
            value = value[key]  # type: ignore[index]  # an int wherever it is a list
        elif error["type"] != "missing" or position != len(error["loc"]) - 1:
            continue
        place.append(key)
    return place


def _fault(kind: str, path: str, place: Sequence[int | str], model: type[BaseModel], said: str) -> Fault:
    code = _CODES.get(kind, kind)
    if kind == "missing":
        return Fault(path, code, f"the field `{place[-1]}` is missing")
    if kind == "extra_forbidden":
        name, known = shortened(str(place[-1]), 60), _fields_at(model, place[:-1])
        suggestion = nearest(name, known)
        hint = did_you_mean(suggestion) or (f"; there are {listed(known)}" if known else "")
        return Fault(path, code, f"there is no field `{name}`{hint}", suggestion)
    return Fault(path, code, _plain(said))


def _plain(message: str) -> str:
    return message.removeprefix("Value error, ")


def _fields_at(model: type[BaseModel], loc: Sequence[int | str]) -> list[str]:
    """The fields of the part of a model that a place leads to; none when that is not clear."""
    for key in loc:
        if isinstance(key, int):
            continue
        field = next((one for name, one in model.model_fields.items() if (one.alias or name) == key), None)
        parts = list(_models_in(field.annotation)) if field is not None else []
        if len(parts) != 1:
            return []
        model = parts[0]
    return [one.alias or name for name, one in model.model_fields.items()]


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if inspect.isclass(annotation) and not get_args(annotation):
        if issubclass(annotation, BaseModel):
            yield annotation
        return
    for one in get_args(annotation):
        yield from _models_in(one)
