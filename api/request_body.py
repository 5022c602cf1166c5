"""The OpenAPI entry of a request body that a route reads by hand."""

from typing import Any

from pydantic import BaseModel

from core.json import JsonValue


def request_body(model: type[BaseModel], example: JsonValue) -> dict[str, Any]:
    """What goes into `openapi_extra`: the model's schema, whole, and an example. Bodies without required fields may
    be left out."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})
    content = {"application/json": {"schema": _inlined(schema, definitions), "example": example}}
    return {"requestBody": {"required": bool(schema.get("required")), "content": content}}


def _inlined(value: Any, definitions: dict[str, Any]) -> Any:
    """The schema without references: a document inside another has no definitions of its own."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            return _inlined(definitions[value["$ref"].rpartition("/")[2]], definitions)
        return {key: _inlined(one, definitions) for key, one in value.items()}
    return [_inlined(one, definitions) for one in value] if isinstance(value, list) else value
