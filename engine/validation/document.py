"""Bounds of a decoded document. YAML can say what JSON cannot (dates, numeric keys, values that contain themselves)."""

import math
from collections.abc import Iterator

from core.errors import Fault
from core.json import MAX_DEPTH, JsonValue
from core.spec import MAX_STEPS
from engine.json_path import child
from engine.json_schema import kind_of

MAX_VALUES = 200_000
"""Values in a document, each one counted as often as it is referred to."""

MAX_CHARACTERS = 4 * 1024 * 1024
"""Characters of all texts and keys together."""

_SCALARS = (str, int, float, bool, type(None))


def document_faults(document: JsonValue) -> list[Fault]:
    """Why the document cannot even be looked at in detail; empty when it can."""
    if not isinstance(document, dict):
        return [Fault("$", "wrong_type", f"a workflow is an object with `name` and `steps`, not {kind_of(document)}")]
    steps = document.get("steps")
    if isinstance(steps, list) and len(steps) > MAX_STEPS:
        sentence = f"{len(steps)} steps are more than the {MAX_STEPS} that a workflow may have; use sub-workflows"
        return [Fault("$.steps", "too_large", sentence)]
    return list(_walk(document))


def _walk(document: JsonValue) -> Iterator[Fault]:
    values = characters = 0
    level: list[tuple[str, JsonValue]] = [("$", document)]
    for _ in range(MAX_DEPTH + 1):
        below: list[tuple[str, JsonValue]] = []
        for path, value in level:
            values += 1
            if isinstance(value, str):
                characters += len(value)
            elif isinstance(value, dict):
                for key, one in value.items():
                    if not isinstance(key, str):
                        yield Fault(path, "bad_value", f"the key {key!r} is not a text; put it in quotes")
                    else:
                        characters += len(key)
                        below.append((child(path, key), one))
            elif isinstance(value, list):
                below.extend((f"{path}[{index}]", one) for index, one in enumerate(value))
            else:
                yield from _not_json(path, value)
            if values + len(below) > MAX_VALUES or characters > MAX_CHARACTERS:
                most = f"{MAX_VALUES} values and {MAX_CHARACTERS} characters"
                yield Fault("$", "too_large", f"the document holds more than {most}; split the workflow")
                return
        if not below:
            return
        level = below
    yield Fault(level[0][0], "too_deep", f"nested deeper than {MAX_DEPTH} levels")


def _not_json(path: str, value: object) -> Iterator[Fault]:
    if not isinstance(value, _SCALARS):
        yield Fault(path, "bad_value", f"{type(value).__name__} is not a JSON type; put the value in quotes")
    elif isinstance(value, float) and not math.isfinite(value):
        yield Fault(path, "bad_value", "the number is not finite, so it has no JSON form")
