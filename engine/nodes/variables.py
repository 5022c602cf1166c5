"""Sets variables that later steps, or other runs, see as `vars`."""

from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import Field, StringConstraints
from typing_extensions import TypedDict

from core.duration import Duration
from core.errors import ErrorClass, StepError, Unavailable
from core.json import JsonValue, encode
from core.manifest import Effect
from core.variable import VariableScope
from engine.node.sdk import NodeVersion, StepContext, node
from engine.ports import SharedVariables

MAX_VALUE_BYTES = 256 * 1024
"""A variable is part of what every later expression may read, so it stays small."""


class VariableSet(TypedDict):
    """What was set. `expires_at` is null when it stays."""

    name: str
    value: JsonValue
    scope: str
    expires_at: str | None


def vars_set_node(shared: SharedVariables | None = None) -> NodeVersion:
    """The node `vars.set`.

    Args:
        shared: where variables go that outlive the run; without it only those of the run can be set.
    """

    @node(
        "vars.set",
        version="1.0.0",
        effect=Effect.IDEMPOTENT,
        category="flow",
        error_classes=(ErrorClass.INVALID_INPUT, ErrorClass.NETWORK),
    )
    async def set_variable(
        context: StepContext,
        name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,127}$")],
        value: JsonValue,
        scope: Literal["run", "session", "workflow", "global"] = "run",
        ttl: Annotated[Duration, Field(gt=0)] | None = None,
    ) -> VariableSet:
        """Set a variable.

        Later steps read it as `vars.<name>`. Runs that begin later see it too, when its scope is wider than the run.

        Args:
            name: Letters, digits, `_`, `.` and `-`; the last two need `vars["the-name"]`.
            value: Any JSON value, up to 256 KB.
            scope: `run`, `session` (runs started with the same session), `workflow` (its later runs) or `global`.
            ttl: How long the value lives; default: it stays.
        """
        if len(encode(value)) > MAX_VALUE_BYTES:
            message = f"A variable holds at most {MAX_VALUE_BYTES} bytes; keep large values in a store of your own."
            raise StepError(ErrorClass.INVALID_INPUT, message, detail={"field": "value"})
        expires_at = None if ttl is None else context.clock.now() + timedelta(seconds=ttl)
        if scope != "run":
            await _keep(shared, context, VariableScope(scope), name, value, expires_at)
        return {
            "name": name,
            "value": value,
            "scope": scope,
            "expires_at": None if expires_at is None else expires_at.isoformat(),
        }

    return set_variable


async def _keep(
    shared: SharedVariables | None,
    context: StepContext,
    scope: VariableScope,
    name: str,
    value: JsonValue,
    expires_at: datetime | None,
) -> None:
    if shared is None:
        raise StepError(ErrorClass.POLICY, f"This engine keeps no variables of the scope `{scope}`.")
    owner = {VariableScope.WORKFLOW: context.workflow, VariableScope.SESSION: context.session}.get(scope, "")
    if scope is not VariableScope.GLOBAL and not owner:
        message = f"The run has no {scope}: start it with one, or choose another scope."
        raise StepError(ErrorClass.INVALID_INPUT, message, detail={"field": "scope"})
    try:
        await shared.set(context.workspace, scope, owner, name, value, expires_at, f"run {context.run_id}")
    except Unavailable as error:
        raise StepError(ErrorClass.NETWORK, error.detail) from None
