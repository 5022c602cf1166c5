"""Fits a JSON Schema to what providers take for structured output.

Every change only narrows: an answer that satisfies the changed schema satisfies the given one.
"""

from copy import deepcopy
from typing import Any

_LISTS = ("anyOf", "allOf", "prefixItems")
_MAPS = ("properties", "$defs", "definitions")


def strict_schema(schema: dict[str, Any]) -> dict[str, Any] | None:
    """The schema in OpenAI's strict form: objects are closed and all their members required.

    None when it has no such form: the root is no object, or an object has members of any name.
    """
    if schema.get("type") != "object" or "anyOf" in schema:
        return None
    narrowed = deepcopy(schema)
    return narrowed if _narrow(narrowed) else None


def _narrow(schema: Any) -> bool:
    """Narrow in place; false when the schema has no strict form."""
    if not isinstance(schema, dict):
        return False
    if schema.keys() & {"oneOf", "not", "if", "patternProperties", "propertyNames", "unevaluatedProperties"}:
        return False
    kinds = schema.get("type")
    if kinds == "object" or (isinstance(kinds, list) and "object" in kinds) or "properties" in schema:
        if schema.setdefault("additionalProperties", False) is not False:
            return False
        schema["required"] = list(schema.setdefault("properties", {}))
    inner = [one for name in _LISTS for one in schema.get(name, ())]
    inner += [one for name in _MAPS for one in schema.get(name, {}).values()]
    if "items" in schema:
        inner.append(schema["items"])
    return all(_narrow(one) for one in inner)
