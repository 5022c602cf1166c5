"""Durations as people write them: `50ms`, `5s`, `5m`, `1h`, `2d`."""

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PATTERN = r"^(?:[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h|d))+$"
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_MAX_SECONDS = 366 * 86400.0


def parse_duration(value: Any) -> float:
    """Seconds, to the nanosecond, in a duration text (`1h30m`) or a plain number of seconds.

    Raises:
        ValueError: another form, a negative value, or more than a year.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError("must be a duration such as 50ms, 5s, 5m, 1h or 2d")
    if isinstance(value, str):
        if len(value) > 40 or not re.fullmatch(_PATTERN, value):
            raise ValueError(f"{value[:40]!r} is not a duration; write for example 50ms, 5s, 5m, 1h or 2d")
        seconds = sum(float(amount) * _UNIT_SECONDS[unit] for amount, unit in _PART.findall(value))
    else:
        seconds = float(value)
    if not 0 <= seconds <= _MAX_SECONDS:
        raise ValueError("must be between 0 and 366 days")
    return round(seconds, 9)


def format_duration(seconds: float) -> str:
    """The shortest text that parses back to the same number of seconds."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("m", 60.0), ("s", 1.0)):
        if seconds >= size and (seconds / size).is_integer():
            return f"{int(seconds / size)}{unit}"
    # Through decimals, because `g` keeps six digits and writes 1e-06.
    exact = Decimal(repr(round(seconds, 9)))
    return f"{(exact * 1000).normalize():f}ms" if seconds < 1 else f"{exact:f}s"


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema(
        {
            "anyOf": [{"type": "string", "pattern": _PATTERN}, {"type": "number", "minimum": 0}],
            "description": "A duration: 50ms, 5s, 5m, 1h, 2d, or a number of seconds.",
            "examples": ["5s"],
        }
    ),
]
"""Seconds as a float inside, a duration text on the wire."""
