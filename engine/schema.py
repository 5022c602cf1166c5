"""The JSON Schema of the workflow spec, for editors and clients. What it cannot say, `engine.validation` checks."""

from copy import deepcopy
from functools import lru_cache
from typing import Any

from core.errors import ErrorClass
from core.spec import WorkflowSpec
from engine.json_schema import DIALECT

SCHEMA_ID = "/api/v1/schemas/workflow"
"""Where the schema is served; relative, because it belongs to whichever server answers."""

EXAMPLES: tuple[dict[str, Any], ...] = (
    {
        "name": "greet",
        "description": "One step: says hello to whom the input names.",
        "inputs": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}},
        "steps": [{"id": "greeting", "node": "transform.map", "with": {"value": "Hello {{ input.name }}"}}],
        "outputs": {"text": "{{ steps.greeting.output }}"},
    },
    {
        "name": "charge_customer",
        "description": "Calls a provider with retries; a second step stands in when it fails for good.",
        "inputs": {"type": "object", "required": ["amount"], "properties": {"amount": {"type": "number"}}},
        "steps": [
            {
                "id": "charge",
                "node": "http.request",
                "with": {
                    "method": "POST",
                    "url": "https://payments.example/charges",
                    "headers": {"Authorization": "Bearer {{ secrets.PAYMENT_KEY }}"},
                    "json": {"amount": "{{ input.amount }}"},
                },
                "when": "{{ input.amount > 0 }}",
                "timeout": "5s",
                "retry": {"max_attempts": 3, "initial": "1s", "on": ["network", "timeout", "rate_limited"]},
                "on_error": {"use": "queue"},
            },
            {"id": "queue", "node": "transform.map", "with": {"value": {"body": {"id": "queued"}}}},
        ],
        "outputs": {"receipt": "{{ steps.charge.output.body.id }}"},
        "policies": {"max_duration": "5m"},
    },
)
"""Specs that are valid."""


@lru_cache(maxsize=1)
def _built() -> dict[str, Any]:
    generated = WorkflowSpec.model_json_schema(by_alias=True, mode="validation")
    generated["$defs"]["Retry"]["properties"]["on"]["default"].sort(key=list(ErrorClass).index)
    return {
        "$schema": DIALECT,
        "$id": SCHEMA_ID,
        **generated,
        "title": "REFLUX workflow",
        "description": (
            "Steps that form a directed acyclic graph. Texts may hold CEL expressions in {{ }}; a reference to "
            "steps.<id> makes the step wait for that one."
        ),
        "examples": list(EXAMPLES),
    }


def workflow_schema() -> dict[str, Any]:
    """JSON Schema 2020-12 of a workflow spec, a copy of its own for each caller."""
    return deepcopy(_built())
