"""The workflows that a document speaks of, before anything else is known of it."""

from core.json import JsonValue

_KEYS = ("workflow", "fallback_workflow")
_MOST = 1_000


def mentioned_workflows(document: JsonValue) -> frozenset[str]:
    """Names (or ids) that stand where a workflow is named, without versions. Some may be something else."""
    found: set[str] = set()
    left: list[JsonValue] = [document]
    while left and len(found) < _MOST:
        value = left.pop()
        if isinstance(value, list):
            left.extend(value)
        elif isinstance(value, dict):
            for key, one in value.items():
                if key in _KEYS and isinstance(one, str):
                    found.add(one.partition("@")[0][:200])
                else:
                    left.append(one)
    return frozenset(found)
