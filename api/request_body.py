"""The OpenAPI entry of a request body that a route reads by hand."""

from typing import Any

from pydantic import BaseModel

from core.json import JsonValue


def request_body(model: type[BaseModel], example: JsonValue, required: bool | None = None) -> dict[str, Any]:
    """What goes into `openapi_extra`: the model's schema, whole, and an example.

    Args:
        required: whether the body may be left out; by default one without required fields may.
    """
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})
    content = {"application/json": {"schema": _inlined(schema, definitions), "example": example}}
    needed = bool(schema.get("required")) if required is None else required
    return {"requestBody": {"required": needed, "content": content}}


def _inlined(value: Any, definitions: dict[str, Any]) -> Any:
    """The schema without references: a document inside another has no definitions of its own."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            return _inlined(definitions[value["$ref"].rpartition("/")[2]], definitions)
        return {key: _inlined(one, definitions) for key, one in value.items()}
    return [_inlined(one, definitions) for one in value] if isinstance(value, list) else value
