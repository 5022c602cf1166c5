"""Nodes that reshape values."""

import re
from collections.abc import Iterator
from typing import Annotated

from typing_extensions import TypedDict

from core.errors import ErrorClass, StepError
from core.json import JsonValue, encode
from core.manifest import Effect
from engine.node.sdk import Cel, Lane, StepContext, node

CHUNK = 1_000
"""Elements for which a condition is evaluated in one call: a usual condition takes 15 ms of the 50 ms allowed."""

INDEXED_CHUNK = 250
"""The same for a condition over `index`, where each element costs more the longer the list is."""

CHUNK_BYTES = 2_000_000
"""JSON bytes of the elements of one call; half of what the evaluator takes."""

_INDEX = re.compile(r"\bindex\b")


class Filtered(TypedDict):
    """The elements that were kept."""

    items: list[JsonValue]
    count: int


@node("transform.map", version="1.0.0", effect=Effect.PURE, lane=Lane.INLINE, category="transform")
def map_value(value: JsonValue) -> JsonValue:
    """Map.

    Builds a value: any structure, with expressions where values go. The output is that structure.

    Args:
        value: The structure to build.
    """
    return value


@node(
    "transform.filter",
    version="1.0.0",
    effect=Effect.PURE,
    category="transform",
    error_classes=(ErrorClass.EXPRESSION,),
)
async def filter_items(context: StepContext, items: list[JsonValue], where: Annotated[str, Cel]) -> Filtered:
    """Filter.

    Keeps the elements of a list for which a condition holds, in their order.

    Args:
        items: The list.
        where: CEL over `item` (the element) and `index` (its position from 0); must give true or false. A `map`,
            `filter` or `exists` of its own may stand in it once, and not together with `index`.
    """
    kept: list[JsonValue] = []
    for start, end in _chunks(items, INDEXED_CHUNK if _INDEX.search(where) else CHUNK):
        chunk = items[start:end]
        verdicts = await _verdicts(context, chunk, start, where)
        for offset, (item, verdict) in enumerate(zip(chunk, verdicts, strict=True)):
            if not isinstance(verdict, bool):
                message = f"`where` gave no true or false for element {start + offset}: write a comparison."
                raise StepError(ErrorClass.EXPRESSION, message)
            if verdict:
                kept.append(item)
    return {"items": kept, "count": len(kept)}


def _chunks(items: list[JsonValue], most: int) -> Iterator[tuple[int, int]]:
    start = size = 0
    for position, item in enumerate(items):
        length = len(encode(item))
        if position > start and (position - start == most or size + length > CHUNK_BYTES):
            yield start, position
            start, size = position, 0
        size += length
    if items:
        yield start, len(items)


async def _verdicts(context: StepContext, chunk: list[JsonValue], start: int, where: str) -> list[JsonValue]:
    # One call for all elements. Only the verdicts come back, so the elements stay exactly as they were. The line break
    # ends a comment that `where` may end with.
    if _INDEX.search(where):
        positions = list(range(start, start + len(chunk)))
        source = f"positions.map(index, [items[index - {start}]].map(item, ({where}\n))[0])"
        verdicts = await context.evaluator.evaluate(source, {"items": chunk, "positions": positions})
    else:
        verdicts = await context.evaluator.evaluate(f"items.map(item, ({where}\n))", {"items": chunk})
    if not isinstance(verdicts, list) or len(verdicts) != len(chunk):
        raise StepError(ErrorClass.EXPRESSION, "`where` is not one complete expression: check its brackets.")
    return verdicts
