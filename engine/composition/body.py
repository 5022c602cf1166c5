"""What the children of a composition run: a stored workflow, or steps that are written inside the step itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.errors import ErrorClass, StepError
from core.json import JsonValue
from engine.composition.composition import ChildAsk

BODY_NAME = "body"
"""Name of the workflow that inline steps make."""


@dataclass(frozen=True, slots=True)
class Body:
    """Exactly one of the two.

    Attributes:
        workflow: `name` or `name@version`.
        spec: a workflow document.
    """

    workflow: str | None = None
    spec: dict[str, Any] | None = None

    def ask(self, index: int, given: JsonValue, label: str, context: dict[str, str] | None = None) -> ChildAsk:
        """The wish to start it."""
        return ChildAsk(index, self.workflow, self.spec, given, label, context)


def body_of(
    workflow: str | None,
    steps: Sequence[dict[str, Any]] | None,
    outputs: Mapping[str, Any] | None,
    where: str = "",
) -> Body:
    """Read a body.

    Args:
        where: said before an error's sentence.

    Raises:
        StepError: INVALID_INPUT, when not exactly one of `workflow` and `steps` is given.
    """
    if (workflow is None) == (steps is None):
        raise StepError(ErrorClass.INVALID_INPUT, f"{where}Give either `workflow` or `steps`.")
    if workflow is not None:
        if outputs is not None:
            raise StepError(ErrorClass.INVALID_INPUT, f"{where}`outputs` belongs to `steps`; a workflow has its own.")
        return Body(workflow=workflow)
    return Body(spec=body_document(list(steps or ()), outputs))


def body_document(steps: JsonValue, outputs: JsonValue) -> dict[str, Any]:
    """The workflow that inline steps make. Without `outputs` it gives the output of each step by its id."""
    if outputs is None:
        ids = [step["id"] for step in steps if isinstance(step, dict) and isinstance(step.get("id"), str)]
        outputs = {one: f'{{{{ steps["{one}"].output }}}}' for one in ids if _quotable(one)}
    return {"name": BODY_NAME, "steps": steps, "outputs": outputs}


def _quotable(step_id: str) -> bool:
    # A wrong id is reported where it stands, not in an expression that nobody wrote.
    return '"' not in step_id and "\\" not in step_id and "}}" not in step_id and "\n" not in step_id
