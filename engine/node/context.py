"""What a node is given besides its parameters: who it runs for, and where it says what the call cost."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from core.clock import Clock
from core.ids import DEFAULT_WORKSPACE, RunId, StepId, Workspace
from core.json import JsonValue
from core.manifest import Effect
from core.run import NO_ITEM

_MOST_TOKENS = 2**63 - 1


class ExpressionEvaluator(Protocol):
    """Evaluates CEL within the engine's bounds."""

    async def evaluate(self, source: str, variables: Mapping[str, JsonValue]) -> JsonValue:
        """The value of the expression. Raises StepError(EXPRESSION) when it has none."""
        ...


@dataclass(slots=True)
class Report:
    """What a node said about one attempt while it ran; also filled when the attempt fails.

    Attributes:
        sensitive: texts derived from secrets, which the engine scrubs from outputs and errors.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    cost_usd: float = 0.0
    tokens_in: int = 0
    tokens_out: int = 0
    sensitive: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class StepContext:
    """One attempt of one step. A parameter annotated with this type receives it.

    Attributes:
        item: position inside a `foreach`, or `NO_ITEM`.
        attempt: 1 for the first.
        idempotency_key: the same for every attempt of this step and item.
        timeout: seconds that the attempt may take; the engine enforces them.
        effect: what the step says about running twice, when it overrides the node.
        workflow: its name; `session`: what the run was started with, if anything.
        reported: what the node has reported so far.
    """

    run_id: RunId
    step_id: StepId
    item: int
    attempt: int
    idempotency_key: str
    timeout: float
    clock: Clock
    evaluator: ExpressionEvaluator
    effect: Effect | None = None
    workspace: Workspace = DEFAULT_WORKSPACE
    workflow: str = ""
    session: str = ""
    reported: Report = field(default_factory=Report)

    def report(self, **metrics: float) -> None:
        """Record figures about this attempt; a later value of the same name replaces the earlier one."""
        self.reported.metrics.update({name: float(value) for name, value in metrics.items()})

    def cost(self, usd: float) -> None:
        """Add to what this attempt has cost, in US dollars."""
        self.reported.cost_usd += float(usd)

    def tokens(self, tokens_in: int, tokens_out: int) -> None:
        """Add to the language-model tokens that this attempt has read and written; less than none counts as none."""
        self.reported.tokens_in = _counted(self.reported.tokens_in, tokens_in)
        self.reported.tokens_out = _counted(self.reported.tokens_out, tokens_out)

    def sensitive(self, value: str) -> None:
        """Register a text derived from a secret (such as the base64 of a password), to be scrubbed like it."""
        if value:
            self.reported.sensitive.append(value)


def _counted(so_far: int, more: int) -> int:
    # What a trace cannot hold would keep its whole batch, and all after it, from being shipped.
    return min(so_far + max(int(more), 0), _MOST_TOKENS)


def idempotency_key(run_id: RunId, step_id: StepId, item: int = NO_ITEM) -> str:
    """`run:step`, or `run:step:index` inside a `foreach`."""
    return f"{run_id}:{step_id}" if item == NO_ITEM else f"{run_id}:{step_id}:{item}"
