"""Slots of limits on PostgreSQL. One call is one turn of a process over all scopes that it has something to say about.

The work is a function of the database (`limits_turn`, see its migration): one round trip, one transaction, and under
the row lock of each scope. What goes in:

    {owners, scopes: [{scope, seen, limit: {max, calls, per, burst}?,
                       back: [[holder, owner]], asks: [[holder, run, owner, priority, workflow]]}]}

and what comes out: `[{scope, seen, full, limit, granted: [[holder, seconds]]}]`.
"""

from collections.abc import Collection, Sequence
from typing import Any

import orjson
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from core.errors import Unavailable
from core.ids import OwnerId, RunId
from core.limit import Limit, ScopeAnswer, ScopeTurn
from core.spec import Rate
from infra.postgres.connection import transaction

_BAD_DATA = "22"
"""The class of SQL states that say that what was sent is wrong: the only ones that do not pass."""

_TURN = text("SELECT limits_turn(CAST(:work AS jsonb))::text")
_RELEASE_RUN = text("SELECT DISTINCT limits_release_run(:run, :owner, CAST(:keep AS text[]))")
_SWEEP = text("SELECT limits_sweep()")


class Slots:
    """See `engine.limits.ports.SlotStore`."""

    def __init__(self, engine: AsyncEngine) -> None:
        # Each call is one statement that calls a function: a transaction by itself.
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")

    async def turn(self, owners: Collection[OwnerId], turns: Sequence[ScopeTurn]) -> list[ScopeAnswer]:
        """See `engine.limits.ports.SlotStore.turn`."""
        work = {
            "owners": list(owners),
            "scopes": [_turn_json(one) for one in turns],
        }
        try:
            async with transaction(self._engine) as connection:
                found = await connection.scalar(_TURN, {"work": orjson.dumps(work).decode()})
        except DBAPIError as error:
            if str(getattr(error.orig, "sqlstate", "")).startswith(_BAD_DATA):
                raise
            raise Unavailable("the database cannot grant slots at this moment") from error
        return [_answer(one) for one in orjson.loads(found)]

    async def release_run(self, run_id: RunId, owner: OwnerId, keep: Collection[str]) -> list[str]:
        """See `engine.limits.ports.SlotStore.release_run`."""
        async with transaction(self._engine) as connection:
            rows = await connection.execute(_RELEASE_RUN, {"run": run_id, "owner": owner, "keep": list(keep)})
            return [row[0] for row in rows]

    async def sweep(self) -> int:
        """See `engine.limits.ports.SlotStore.sweep`."""
        async with transaction(self._engine) as connection:
            return int(await connection.scalar(_SWEEP) or 0)


def _turn_json(turn: ScopeTurn) -> dict[str, Any]:
    one: dict[str, Any] = {
        "scope": turn.scope,
        "seen": turn.seen,
        "back": turn.back,
        "asks": [
            [each.ask.holder, each.ask.run_id, each.owner, each.ask.priority, each.ask.workflow] for each in turn.asks
        ],
    }
    if turn.asks:
        one["limit"] = limit_json(turn.asks[-1].ask.limit)
    return one


def limit_json(limit: Limit) -> dict[str, Any]:
    """A limit as columns. A burst that is not said is 1: starts are spread evenly."""
    rate = limit.rate
    if rate is None:
        return {"max": limit.max, "calls": None, "per": None, "burst": None}
    return {"max": limit.max, "calls": rate.calls, "per": rate.per, "burst": rate.burst or 1}


def limit_of(row: dict[str, Any]) -> Limit:
    """The limit in columns."""
    if row["calls"] is None:
        return Limit(row["max"])
    return Limit(row["max"], Rate(calls=row["calls"], per=row["per"], burst=row["burst"]))


def _answer(found: dict[str, Any]) -> ScopeAnswer:
    granted = tuple((holder, max(0.0, float(seconds))) for holder, seconds in found["granted"])
    return ScopeAnswer(found["scope"], found["seen"], found["full"], limit_of(found["limit"]), granted)
