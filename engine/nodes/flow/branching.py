"""Control nodes that choose, join and delay."""

from typing import Annotated, Literal

from pydantic import Field, StrictBool
from typing_extensions import TypedDict

from core.duration import Duration
from core.json import JsonValue
from core.manifest import Effect
from engine.node.sdk import Lane, node


class Decision(TypedDict):
    """Whether the condition holds."""

    result: bool


class Choice(TypedDict):
    """The case that was chosen; null when none matched and there is no default."""

    case: JsonValue


@node("flow.if", version="1.0.0", effect=Effect.PURE, lane=Lane.INLINE, category="flow")
def if_(condition: StrictBool) -> Decision:
    """If.

    Gives the condition as `result`. Let other steps continue with `when: "{{ steps.<id>.output.result }}"`.

    Args:
        condition: Must be true or false; numbers and texts are not taken for either.
    """
    return {"result": condition}


@node("flow.switch", version="1.0.0", effect=Effect.PURE, lane=Lane.INLINE, category="flow")
def switch(
    value: JsonValue,
    cases: list[JsonValue] | dict[str, JsonValue],
    default: JsonValue = None,
) -> Choice:
    """Switch.

    Finds the case that a value belongs to. The first match wins.

    Args:
        value: What to look for.
        cases: A list of values: the equal one is the case. Or names with a value, or with a list of values: the
            name is the case.
        default: The case when nothing matches.
    """
    if isinstance(cases, list):
        return {"case": next((case for case in cases if _equal(case, value)), default)}
    for name, wanted in cases.items():
        if _equal(wanted, value) or (isinstance(wanted, list) and any(_equal(one, value) for one in wanted)):
            return {"case": name}
    return {"case": default}


@node("flow.merge", version="1.0.0", effect=Effect.PURE, lane=Lane.INLINE, category="flow", joins=True)
def merge(
    inputs: dict[str, JsonValue],
    mode: Literal["all", "any", "count"] = "all",
    count: Annotated[int, Field(strict=True, ge=1, le=1_000)] | None = None,
) -> dict[str, JsonValue]:
    """Merge.

    Joins branches. The output has the output of each completed one under its step's id.

    Args:
        mode: When to run. `all`: when all steps that it needs are over, also when some or all of them were skipped.
            `any`: as soon as one of them is completed. `count`: as soon as `count` of them are. Must be written out:
            it decides the graph.
        count: How many, for the mode `count`.
    """
    return inputs


@node("flow.delay", version="1.0.0", effect=Effect.PURE, lane=Lane.TIMER, category="flow")
def delay(seconds: Annotated[Duration, "seconds"]) -> float:
    """Delay.

    Waits, also across restarts, and gives an empty object.

    Args:
        seconds: How long: a number of seconds, or a duration such as 50ms, 5m, 1h.
    """
    return seconds


def _equal(one: JsonValue, other: JsonValue) -> bool:
    # Python takes true for 1; JSON does not.
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)
