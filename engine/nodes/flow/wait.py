"""Waiting for what happens outside: an event, a form that somebody fills in, an approval."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StringConstraints

from core.duration import Duration
from core.errors import ErrorClass, StepError
from core.json import JsonValue
from core.manifest import Effect
from engine.json_schema import SchemaError, check_schema
from engine.node.sdk import Cel, Lane, node


@dataclass(frozen=True, slots=True)
class Wait:
    """What has to happen.

    Attributes:
        name: of the event.
        match: CEL over `event` (the payload), and the run's `input`, `vars` and `context`; None takes every event of
            the name.
        timeout: seconds; None waits for ever.
        on_timeout: `fail` (class `timeout`), or `continue` with `late`.
        on_reject: `fail` (class `policy`), or `continue` with the decision.
        form: JSON Schema of what is to be submitted.
        message: what people are asked.
        role: the least role that may answer a form or an approval.
    """

    kind: Literal["event", "form", "approval"]
    name: str | None = None
    match: str | None = None
    timeout: float | None = None
    on_timeout: Literal["fail", "continue"] = "fail"
    on_reject: Literal["fail", "continue"] = "fail"
    form: dict[str, Any] | None = None
    message: str = ""
    role: Literal["editor", "approver", "admin"] = "approver"

    @property
    def late(self) -> JsonValue:
        """The output when the time is over and the run goes on."""
        return decision(False, None, "") if self.kind == "approval" else None


def decision(approved: bool, by: str | None, comment: str) -> dict[str, JsonValue]:
    """The output of an approval."""
    return {"approved": approved, "by": by, "comment": comment}


@node(
    "flow.wait",
    version="1.0.0",
    effect=Effect.PURE,
    lane=Lane.WAIT,
    category="flow",
    error_classes=(ErrorClass.TIMEOUT, ErrorClass.POLICY),
)
def wait(
    event: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None,
    match: Annotated[
        str,
        Cel,
        StringConstraints(max_length=10_000),
        Field(json_schema_extra={"x-roots": ["event", "input", "vars", "context"]}),
    ] = "",
    form: dict[str, JsonValue] | None = None,
    approval: StrictBool = False,
    timeout: Duration | None = None,
    on_timeout: Literal["fail", "continue"] = "fail",
    on_reject: Literal["fail", "continue"] = "fail",
    message: Annotated[str, StringConstraints(max_length=10_000)] = "",
    role: Literal["editor", "approver", "admin"] | None = None,
) -> Wait:
    """Wait.

    Sleeps, also across restarts, until something outside happens. Exactly one of `event`, `form` and `approval` says
    what. The output is the event's payload, what was submitted, or `{approved, by, comment}`.

    Args:
        event: Name of the event.
        match: CEL over `event` (its payload), and the run's `input`, `vars` and `context`; must give true. Default:
            every event of that name.
        form: JSON Schema of an object that somebody submits.
        approval: Whether somebody must approve or reject.
        timeout: How long to wait, such as 30m or 2d; default: for ever.
        on_timeout: `fail` the step, or `continue`: with null, or as not approved.
        on_reject: `fail` the step, or `continue` with `approved` false.
        message: What people are asked.
        role: The least role that may answer: by default `editor` for a form, `approver` for an approval.
    """
    given = {"event": event is not None, "form": form is not None, "approval": approval}
    kinds: list[Any] = [kind for kind, is_given in given.items() if is_given]
    if len(kinds) != 1:
        raise StepError(ErrorClass.INVALID_INPUT, "Give exactly one of `event`, `form` and `approval: true`.")
    if form is not None:
        try:
            check_schema(form)
        except SchemaError as error:
            raise StepError(ErrorClass.INVALID_INPUT, f"`form` is no usable JSON Schema: {error}") from None
    return Wait(
        kind=kinds[0],
        name=event,
        match=match or None,
        timeout=timeout,
        on_timeout=on_timeout,
        on_reject=on_reject,
        form=form,
        message=message,
        role=role or ("approver" if approval else "editor"),
    )
