"""What makes two calls equal."""

import hashlib
from typing import Any

from core.ids import WorkflowId
from core.json import JsonValue, canonical
from engine.expression.secret import SecretText, masked


def call_key(node: str, version: str, params: dict[str, Any]) -> str:
    """The key of a call by all that it is given: equal for the same version of the same node with equal parameters.

    A secret counts by its name. Text from elsewhere that merely looks like one is another parameter, so nobody gets
    with such a text what was answered to the secret.
    """
    return _hash(["call", node, version, masked(params), _secret_places(params)])


def named_key(workflow_id: WorkflowId, step_id: str, node: str, value: JsonValue) -> str:
    """The key of a call by the value of the step's `cache.key`, whichever version serves it.

    Only calls of the same step share: the same value means something else elsewhere.
    """
    return _hash(["named", str(workflow_id), step_id, node, masked(value), _secret_places(value)])


def _secret_places(value: JsonValue) -> list[list[str | int]]:
    found: list[list[str | int]] = []
    open_ones: list[tuple[list[str | int], JsonValue]] = [([], value)]
    while open_ones:
        path, one = open_ones.pop()
        if isinstance(one, SecretText):
            found.append(path)
        elif isinstance(one, dict):
            open_ones.extend(([*path, key], inner) for key, inner in one.items())
        elif isinstance(one, list):
            open_ones.extend(([*path, index], inner) for index, inner in enumerate(one))
    return sorted(found, key=str)


def _hash(parts: list[JsonValue]) -> str:
    return hashlib.blake2b(canonical(parts), digest_size=24).hexdigest()
