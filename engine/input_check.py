"""Checks the input of a run against the schema that its workflow declares. Pure."""

from typing import Any

from core.errors import Fault
from core.json import JsonValue
from engine.json_schema import validator_of, value_faults


def input_faults(schema: dict[str, Any], value: JsonValue, root: str = "$.input") -> list[Fault]:
    """What keeps `value` from being an input of a workflow with these `inputs`; empty when it is one.

    Args:
        schema: the spec's `inputs`; equal schemas are compiled once.
        root: JSON path of the value in what the caller sent.

    Raises:
        SchemaError: the schema itself is wrong, which validation of the spec has ruled out.
    """
    if not schema or validator_of(schema).is_valid(value):
        return []
    return list(value_faults(schema, value, root))
