"""Values that steps share, in four scopes."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from core.duration import Duration


class VariableScope(StrEnum):
    """How far a variable reaches. The narrowest scope wins when names are equal."""

    GLOBAL = "global"
    """All workflows of the workspace."""
    WORKFLOW = "workflow"
    """All runs of one workflow."""
    SESSION = "session"
    """All runs that were started with the same `session`."""
    RUN = "run"
    """One run."""


class VariableSpec(BaseModel):
    """A variable in a workflow spec: its value until something else is set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: Any = None
    scope: VariableScope = VariableScope.RUN
    ttl: Duration | None = Field(None, gt=0, description="How long the value lives after it was set.")


class Variable(BaseModel):
    """A value that is set. `expires_at` is None when it stays."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    value: Any = None
    scope: VariableScope
    expires_at: datetime | None = None


def _declared(given: Any) -> Any:
    if isinstance(given, VariableSpec) or (isinstance(given, dict) and "value" in given and given.keys() <= _FIELDS):
        return given
    return {"value": given}


_FIELDS = {"value", "scope", "ttl"}

Declared = Annotated[VariableSpec, BeforeValidator(_declared)]
"""A variable as a spec may write it: `{value, scope, ttl}`, or the bare value."""
