"""What pydantic finds wrong with a request, in words for the one who sent it. Never says what stood there."""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from core.errors import Fault
from engine.wording import did_you_mean, listed, nearest, shortened

_CODES = {"extra_forbidden": "unknown_field", "missing": "missing_field"}


def model_faults(error: ValidationError, model: type[BaseModel]) -> list[Fault]:
    """A fault for each error of a body that was to be `model`."""
    return [_fault(one, model) for one in error.errors(include_url=False, include_input=False, include_context=False)]


def query_faults(errors: Sequence[Any]) -> list[Fault]:
    """A fault for each error of the parameters of a request."""
    return [Fault("$." + ".".join(map(str, one["loc"])), one["type"], _plain(one["msg"])) for one in errors]


def _fault(error: ErrorDetails, model: type[BaseModel]) -> Fault:
    kind, loc = error["type"], error["loc"]
    path = "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    code = _CODES.get(kind, kind)
    if kind == "model_type":
        return Fault(path, code, "must be a JSON object")
    if kind == "missing":
        return Fault(path, code, f"the field `{loc[-1]}` is missing")
    if kind == "extra_forbidden":
        name, known = shortened(str(loc[-1]), 60), _fields_at(model, loc[:-1])
        suggestion = nearest(name, known)
        hint = did_you_mean(suggestion) or (f"; there are {listed(known)}" if known else "")
        return Fault(path, code, f"there is no field `{name}`{hint}", suggestion)
    return Fault(path, code, _plain(error["msg"]))


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
