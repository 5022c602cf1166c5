"""The end of a run before its last step."""

from dataclasses import dataclass
from typing import Any, Literal

from core.json import JsonValue
from core.manifest import Effect
from engine.node.sdk import Lane, node


@dataclass(frozen=True, slots=True)
class End:
    """How the run ends.

    Attributes:
        outputs: of the run; None for those that its workflow declares.
    """

    status: Literal["completed", "failed"]
    outputs: dict[str, Any] | None
    message: str


@node("flow.end", version="1.0.0", effect=Effect.PURE, lane=Lane.END, category="flow", output_schema={"type": "object"})
def end(
    status: Literal["completed", "failed"] = "completed",
    outputs: dict[str, JsonValue] | None = None,
    message: str = "",
) -> End:
    """End.

    Ends the run here and now. Steps under way are cancelled, and no further one starts.

    Args:
        status: How the run ends.
        outputs: What the run gives; default: the workflow's `outputs`.
        message: Why, for those who read the run; the error of a run that fails.
    """
    return End(status, outputs, message)
