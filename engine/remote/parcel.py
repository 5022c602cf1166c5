"""Parameters on their way to a worker: JSON beside the places where secrets belong.

A secret travels as its name, in a list apart from the values. So no text of a user can pass for a placeholder, and no
secret's text is ever in the table, in a message, or in a dump of either.
"""

from collections.abc import Mapping
from typing import Any

from core.json import JsonValue
from engine.expression.secret import SecretName, SecretText


def pack(params: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """`{values, secrets: [{at: [key or index, …], parts: [text or {secret: name}, …]}, …]}`; null in its place."""
    found: list[JsonValue] = []
    values = {key: _without(value, [key], found) for key, value in params.items()}
    return {"values": values, "secrets": found}


def unpack(parcel: Mapping[str, Any]) -> dict[str, JsonValue]:
    """The parameters, with their placeholders. The parcel is used up."""
    values: dict[str, JsonValue] = parcel["values"]
    for one in parcel["secrets"]:
        *way, last = one["at"]
        place: JsonValue = values
        for step in way:
            place = place[step]
        place[last] = SecretText(
            tuple(part if isinstance(part, str) else SecretName(part["secret"]) for part in one["parts"])
        )
    return values


def _without(value: JsonValue, at: list[str | int], found: list[JsonValue]) -> JsonValue:
    if isinstance(value, SecretText):
        parts = [part if isinstance(part, str) else {"secret": part.name} for part in value.parts]
        found.append({"at": at, "parts": parts})
        return None
    if isinstance(value, dict):
        return {key: _without(one, [*at, key], found) for key, one in value.items()}
    if isinstance(value, list):
        return [_without(one, [*at, index], found) for index, one in enumerate(value)]
    return value
