"""One line of the table that `make bench` prints."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the table. `limit` is the raw figure that `value` is compared with."""

    what: str
    value: float
    unit: str
    target: str
    limit: float | None = None
    limit_name: str = ""
