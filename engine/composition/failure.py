"""The failure of a child as the failure of the step that started it."""

from core.errors import ErrorClass, StepError
from core.run import RunStatus
from engine.composition.composition import Child


def failure_of(child: Child, label: str, **detail: str | int) -> StepError:
    """Why a child has no output.

    Args:
        label: what people call the child; empty when it is the only one.
        detail: more facts about where.
    """
    silent = "its run was cancelled" if child.status == RunStatus.CANCELLED else "its run failed"
    said = str((child.error or {}).get("message") or silent)
    return StepError(class_of(child), f"{label}: {said}" if label else said, detail=dict(detail))


def class_of(child: Child) -> ErrorClass:
    """The class of a failed child's error."""
    if child.status == RunStatus.CANCELLED:
        return ErrorClass.CANCELLED
    try:
        return ErrorClass(str((child.error or {}).get("class")))
    except ValueError:
        return ErrorClass.INTERNAL
