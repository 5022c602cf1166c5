"""How large the values of an expression are and what it may cost: decides whether it runs in process.

The estimate is an upper bound, not a guess: the factors were measured on the native library, whose `map` and `filter`
copy the growing result for each element (quadratic), and whose every read of a name copies the value.
"""

from dataclasses import dataclass

from core.json import MAX_DEPTH, JsonValue
from engine.expression.references import Analysis

MAX_NODES = 100_000
"""Values inside values that one evaluation may be given: counting them holds the event loop for some 10 ms."""

MAX_CHARACTERS = 4_000_000
"""Characters of all strings that one evaluation may be given; the encoded request stays near 4 MB."""

INLINE_NODES = 4_000
"""Units that an evaluation in process may be given: converting them takes about a millisecond."""

INLINE_WORK = 40_000
INLINE_MACRO_WORK = 250_000
MAX_INLINE_MATCHES = 4
MATCH_FACTOR = 8

NODE_CHARACTERS = 64
"""Characters of a string that cost as much as one value."""


class ValueTooLarge(Exception):
    """The values that an expression refers to break a bound; the message says which."""


@dataclass(frozen=True, slots=True)
class Extent:
    """Size of the values that an expression is given.

    Attributes:
        units: values inside values, plus one for each NODE_CHARACTERS characters.
        longest: elements of the longest list or object.
    """

    units: int
    longest: int


def measure(value: JsonValue) -> Extent:
    """Walk a value without recursion, and no further than the bounds.

    Raises:
        ValueTooLarge: nested deeper than MAX_DEPTH (counted below the scope), or larger than MAX_NODES values or
            MAX_CHARACTERS characters.
    """
    nodes = characters = longest = 0
    level: list[JsonValue] = [value]
    # The scope itself is no part of the values: one level for it.
    for _ in range(MAX_DEPTH + 2):
        inner: list[JsonValue] = []
        for one in level:
            if isinstance(one, str):
                characters += len(one)
            elif isinstance(one, (dict, list)):
                length = len(one)
                nodes += length
                longest = max(longest, length)
                if nodes > MAX_NODES:
                    raise ValueTooLarge(
                        f"it refers to more than {MAX_NODES} values; refer to a smaller part, or use foreach"
                    )
                if isinstance(one, dict):
                    characters += 8 * length
                    inner.extend(one.values())
                else:
                    inner.extend(one)
        if characters > MAX_CHARACTERS:
            raise ValueTooLarge(f"it refers to more than {MAX_CHARACTERS} characters; refer to a smaller part")
        if not inner:
            return Extent(nodes + characters // NODE_CHARACTERS, longest)
        level = inner
    raise ValueTooLarge(f"it refers to a value that is nested deeper than {MAX_DEPTH} levels")


def inline_cost(analysis: Analysis, extent: Extent) -> int | None:
    """Microseconds that the evaluation may take at most, roughly; None when it has to run where it can be killed."""
    if extent.units > INLINE_NODES or analysis.risky_match or analysis.matches > MAX_INLINE_MATCHES:
        return None
    # Literals of the source count as values: each token is at most one.
    size = extent.units + analysis.tokens
    reads = analysis.occurrences + 1
    if analysis.macros == 0:
        work = size * reads * reads * (MATCH_FACTOR if analysis.matches else 1)
        allowed = INLINE_WORK
    else:
        # A list can only be as long as the longest value or as a literal, and `map` copies for each element.
        elements = max(extent.longest, min(analysis.tokens, 64))
        work = elements * elements * size * reads
        allowed = INLINE_MACRO_WORK if analysis.macros == 1 and analysis.matches == 0 else 0
    return 20 + work // 30 if work <= allowed else None
