"""Reads request bodies: JSON or YAML, into a pydantic model or as a plain value."""

import asyncio
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

import core.json
import core.yaml
from api.faults import model_faults
from api.problem import BadRequest, TooLarge, UnsupportedMediaType
from core.errors import Invalid
from core.json import JsonError, JsonValue
from core.yaml import YamlError

Model = TypeVar("Model", bound=BaseModel)

_YAML_TYPES = ("application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml", "application/vnd.yaml")
_JSON_TYPES = ("application/json", "text/json", "application/x-www-form-urlencoded", "")
# curl's --data says x-www-form-urlencoded; what follows is JSON or an error that says so.
_MAX_YAML = 1024 * 1024
_QUICK_YAML = 16 * 1024
"""YAML takes about a millisecond for each KB: longer texts are read beside the event loop."""


async def read_json(request: Request) -> JsonValue:
    """The body as JSON; None when it is empty. Raises BadRequest, UnsupportedMediaType."""
    raw = await request.body()
    if not raw.strip():
        return None
    check_encoding(request)
    if media_type(request) not in _JSON_TYPES and not media_type(request).endswith("+json"):
        raise UnsupportedMediaType(f"{media_type(request)} is not read here; send application/json")
    try:
        return core.json.decode(raw)
    except JsonError as error:
        raise BadRequest(f"the body cannot be read: {error}") from None


async def read_document(request: Request) -> JsonValue:
    """The body as JSON, or as YAML when its content type says so. Raises BadRequest, UnsupportedMediaType."""
    if media_type(request) not in _YAML_TYPES:
        return await read_json(request)
    check_encoding(request)
    raw = await request.body()
    if len(raw) > _MAX_YAML:
        raise TooLarge(f"a YAML body has at most {_MAX_YAML} bytes; send JSON instead")
    try:
        if len(raw) <= _QUICK_YAML:
            return core.yaml.decode(raw)
        return await asyncio.to_thread(core.yaml.decode, raw)
    except YamlError as error:
        raise BadRequest(f"the body cannot be read: {error}") from None


async def read_model(request: Request, model: type[Model], default: JsonValue = None) -> Model:
    """The body as a model. Raises BadRequest, UnsupportedMediaType, and Invalid with a fault for each wrong field."""
    value = await read_json(request)
    return parse(model, default if value is None else value)


def parse(model: type[Model], value: JsonValue) -> Model:
    """A value as a model. Raises Invalid with a fault for each wrong field."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        faults = model_faults(error, model, value)
        raise Invalid("; ".join(f"{fault.path}: {fault.message}" for fault in faults[:3]), faults) from None


def media_type(request: Request) -> str:
    """The body's media type without parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def check_encoding(request: Request) -> None:
    """Raises UnsupportedMediaType when the body is packed."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise UnsupportedMediaType(f"bodies packed as {encoding[:40]!r} are not read here; send it as it is")
