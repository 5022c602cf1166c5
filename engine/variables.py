"""What a run sees as `vars` when it begins: what is stored, and what its spec declares for the rest. Pure."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from core.variable import Variable, VariableScope, VariableSpec

NARROWNESS = (VariableScope.GLOBAL, VariableScope.WORKFLOW, VariableScope.SESSION, VariableScope.RUN)
"""Scopes from the widest to the narrowest, which wins."""


def begin_with(
    declared: Mapping[str, VariableSpec], stored: Mapping[str, Variable], now: datetime
) -> dict[str, Variable]:
    """The variables of a run that begins now.

    A declared value counts as one of its scope, and gives way to a stored one of the same or a narrower scope: a
    variable declared for the run is the run's own, whatever is stored for all. The `ttl` of a declared value counts
    from the beginning of the run, if its scope is the run; a default of a wider scope was never set and stays.

    Args:
        stored: by name, of all that the run sees the narrowest.
    """
    seen = {name: one for name, one in stored.items() if one.expires_at is None or one.expires_at > now}
    for name, spec in declared.items():
        other = seen.get(name)
        if other is None or NARROWNESS.index(other.scope) < NARROWNESS.index(spec.scope):
            seen[name] = Variable(name=name, value=spec.value, scope=spec.scope, expires_at=_expiry(spec, now))
    return seen


def _expiry(spec: VariableSpec, now: datetime) -> datetime | None:
    of_run = spec.scope is VariableScope.RUN and spec.ttl is not None
    return now + timedelta(seconds=spec.ttl or 0.0) if of_run else None
