"""A call: one attempt with all that a worker must know to perform it, and its form as a row of the table of tasks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from core.errors import ErrorClass, StepError
from core.ids import RunId, StepId, Workspace
from core.json import JsonError, JsonValue, decode, encode
from core.manifest import Effect
from core.trace import attempt_id
from engine.remote.parcel import pack, unpack


@dataclass(frozen=True, slots=True)
class RemoteCall:
    """One attempt of one step.

    Attributes:
        node: the executed node, never a binding.
        params: resolved; secrets are still placeholders.
        timeout: seconds that the attempt may take once a worker has begun it.
        priority: higher goes first, among the tasks that are dispatched again.
        workflow: its name; `session`: what the run was started with, if anything.
    """

    run_id: RunId
    step_id: StepId
    item: int
    attempt: int
    workspace: Workspace
    node: str
    node_version: str
    effect: Effect
    params: Mapping[str, JsonValue]
    secret_names: tuple[str, ...]
    idempotency_key: str
    timeout: float
    priority: int = 0
    workflow: str = ""
    session: str = ""

    @property
    def task_id(self) -> UUID:
        """The same attempt is always the same task."""
        return attempt_id(str(self.run_id), self.step_id, self.item, self.attempt)

    @property
    def group(self) -> str:
        """The node group, which is also the queue."""
        return group_of(self.node)

    def row(self) -> dict[str, object]:
        """The call as columns of the table of tasks.

        Raises:
            StepError: INVALID_INPUT, the parameters have no JSON form.
        """
        try:
            parameters = encode(pack(self.params))
        except JsonError as error:
            raise StepError(ErrorClass.INVALID_INPUT, f"the parameters cannot be sent to a worker: {error}") from None
        return {
            "id": self.task_id,
            "run_id": self.run_id,
            "step_id": self.step_id,
            "item": self.item,
            "attempt": self.attempt,
            "workspace": self.workspace,
            "group_name": self.group,
            "node": self.node,
            "node_version": self.node_version,
            "effect": self.effect.value,
            "parameters": parameters,
            "secret_names": encode(list(self.secret_names)),
            "context": encode(
                {"idempotency_key": self.idempotency_key, "workflow": self.workflow, "session": self.session}
            ),
            "timeout": self.timeout,
            "priority": self.priority,
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "RemoteCall":
        """The call of a row that a worker has claimed."""
        context = decode(row["context"])
        return cls(
            run_id=RunId(row["run_id"]),
            step_id=StepId(row["step_id"]),
            item=row["item"],
            attempt=row["attempt"],
            workspace=Workspace(row["workspace"]),
            node=row["node"],
            node_version=row["node_version"],
            effect=Effect(row["effect"]),
            params=unpack(decode(row["parameters"], _DEEPEST)),
            secret_names=tuple(decode(row["secret_names"])),
            timeout=row["timeout"],
            priority=row["priority"],
            **context,
        )


_DEEPEST = 300
"""The owner has encoded them, which goes no deeper than 254."""


def group_of(node: str) -> str:
    """The group of a node: `http` of `http.request`."""
    return node.partition(".")[0]
