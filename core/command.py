"""What people and programs ask of a run that is under way. Commands travel between processes as JSON."""

import uuid
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from core.account import Role
from core.json import JsonValue
from core.run import NO_ITEM


class _Command(BaseModel):
    """Attributes: `by`: who asks; `id`: performed once, however often it is delivered."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    id: uuid.UUID
    by: str = ""


class Cancel(_Command):
    """End the run now."""

    kind: Literal["cancel"] = "cancel"
    reason: str = ""


class Pause(_Command):
    """Start nothing more until the run is resumed. Attempts in flight end as they will."""

    kind: Literal["pause"] = "pause"
    reason: str = ""


class Resume(_Command):
    """Go on after a pause."""

    kind: Literal["resume"] = "resume"


class Resolve(_Command):
    """Say what became of an attempt whose outcome is unknown."""

    kind: Literal["resolve"] = "resolve"
    step_id: str
    item: int = NO_ITEM
    outcome: Literal["succeeded", "failed", "retry"]
    output: JsonValue = None


class Signal(_Command):
    """Tell the run something. Kept until a `flow.wait` for that name takes it."""

    kind: Literal["signal"] = "signal"
    name: str
    payload: JsonValue = None


class Decide(_Command):
    """Answer a step that waits for an approval or for a form. `role`: of who answers; the step may ask for one."""

    kind: Literal["decide"] = "decide"
    step_id: str
    item: int = NO_ITEM
    approved: bool
    payload: JsonValue = None
    comment: str = ""
    role: Role


class Redrive(_Command):
    """Run a step again, alone or with all that depends on it, also when the run has ended. History is kept.

    `with` replaces parameters of the step, for this run only.
    """

    kind: Literal["redrive"] = "redrive"
    step_id: str
    downstream: bool = True
    with_: dict[str, Any] | None = Field(None, alias="with")


class Breakpoints(_Command):
    """Stop before these steps. Replaces the set."""

    kind: Literal["breakpoints"] = "breakpoints"
    steps: tuple[str, ...] = ()


class Proceed(_Command):
    """Go on from a breakpoint.

    Attributes:
        step_id: the step that stands at its breakpoint; None for all that do.
        with_: replaces parameters of the step, for this run only.
        mode: `continue` runs on to the next breakpoint, `step` stops again before whatever starts next.
    """

    kind: Literal["proceed"] = "proceed"
    step_id: str | None = None
    with_: dict[str, Any] | None = Field(None, alias="with")
    mode: Literal["continue", "step"] = "continue"


class Patch(_Command):
    """Change the graph of the run. See `core.patch`."""

    kind: Literal["patch"] = "patch"
    operations: tuple[dict[str, Any], ...]


Command = Annotated[
    Cancel | Pause | Resume | Resolve | Signal | Decide | Redrive | Breakpoints | Proceed | Patch,
    Field(discriminator="kind"),
]

command_adapter: TypeAdapter[Command] = TypeAdapter(Command)
"""Reads and writes any command as JSON."""
