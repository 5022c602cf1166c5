"""The workflow spec: what a person writes. Shape only; meaning is checked in `engine.validation`."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from core.duration import Duration
from core.errors import TRANSIENT, ErrorClass
from core.manifest import Effect
from core.trigger import Trigger
from core.variable import Declared

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,127}$")]
StepName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$")]
NodeRef = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*(@[\^~]?[0-9][0-9A-Za-z.+-]*)?$", max_length=200)
]

MAX_STEPS = 2_000


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Retry(_Part):
    """When and how often an attempt is repeated. The n-th delay is `initial * factor**(n-1)`, at most `max`."""

    max_attempts: int = Field(3, ge=1, le=100, description="Attempts in all, the first included.")
    initial: Duration = Field(1.0, description="Delay before the second attempt.")
    factor: float = Field(2.0, ge=1, le=100)
    max: Duration = Field(30.0, description="Longest delay; a longer `Retry-After` of the other side is honoured.")
    jitter: bool = Field(True, description="Draw each delay between half and the whole of its value.")
    on: frozenset[ErrorClass] = Field(
        TRANSIENT,
        description="Error classes that are retried. When an unsafe effect may have happened already (a POST that "
        "timed out), it is repeated only if its error class is named here.",
    )


class Cache(_Part):
    """Use a result again instead of calling the node. Equal calls at the same time share one."""

    ttl: Duration = Field(gt=0, description="How long a result is used.")
    key: str | None = Field(
        None, max_length=10_000, description="Expression; calls with equal values share. Default: all parameters."
    )


class Rate(_Part):
    """Calls in a time."""

    calls: int = Field(ge=1, le=1_000_000)
    per: Duration = Field(1.0, gt=0, le=86_400)
    burst: int | None = Field(None, ge=1, le=1_000_000, description="Calls at once after a quiet time; default 1.")


class StepLimit(_Part):
    """How much of a step runs at once over all runs, in all processes."""

    concurrency: int | None = Field(None, ge=1, le=100_000)
    rate: Rate | None = None
    key: str | None = Field(
        None, max_length=10_000, description="Expression; each value has a limit of its own. Default: one for the step."
    )


class RunLimit(_Part):
    """How many runs of a workflow are under way at once."""

    max: int = Field(ge=1, le=100_000)
    key: str | None = Field(None, max_length=10_000, description="Expression over `input` and `context`.")
    overflow: Literal["queue", "fail"] = Field("queue", description="What becomes of a run that finds no room.")


class StepRoute(_Part):
    """Overrides the route of the step's node."""

    goal: Literal["cost", "latency", "quality", "balanced"] | dict[str, float] | None = None
    weights: dict[str, Annotated[float, Field(ge=0, le=100)]] | None = Field(
        None, min_length=1, description="Shares by version or label, instead of the route's."
    )


class UseStep(_Part):
    """Run another step when this one fails; its output stands in for this step's."""

    use: StepName


class Step(_Part):
    """One node in the graph."""

    id: StepName = Field(description="Unique in the workflow; others refer to it as `steps.<id>`.")
    node: NodeRef = Field(description="`name`, `name@1.2.0` or `name@^1`; resolved when a run starts, then pinned.")
    description: str = Field("", max_length=2_000)
    with_: dict[str, Any] = Field(default_factory=dict, alias="with", description="The node's parameters.")
    needs: tuple[StepName, ...] = Field((), description="Steps to wait for, besides those that expressions refer to.")
    when: bool | str = Field(True, description="The step is skipped when this is false.")
    foreach: str | list[Any] | None = Field(None, description="Run once for each element; `item`, `index` in scope.")
    concurrency: int = Field(10, ge=1, le=1_000, description="Elements of `foreach` that run at once.")
    retry: Retry | None = None
    timeout: Duration | None = Field(None, description="Longest time for one attempt; default 5m.")
    on_error: Literal["fail", "continue"] | UseStep | None = Field(None, description="Default: the policy's.")
    effect: Effect | None = Field(None, description="Overrides what the node says running it twice means.")
    cache: Cache | None = None
    limit: StepLimit | None = None
    route: StepRoute | None = None


class Policies(_Part):
    """Rules for the run as a whole."""

    max_duration: Duration | None = Field(None, description="The run fails when it takes longer.")
    on_error: Literal["fail", "continue"] = Field("fail", description="For steps that do not say.")
    concurrency: Annotated[int, Field(ge=1, le=100_000)] | RunLimit | None = Field(
        None, description="Runs that are under way at once; further ones wait as `queued`."
    )
    priority: int = Field(5, ge=0, le=9, description="Who comes first when there is a queue; 9 is most urgent.")
    fallback_workflow: Name | None = Field(
        None, description="Runs with the same input when this one fails; its outputs stand in for this run's."
    )
    cost_budget_usd: float | None = Field(None, gt=0, description="The run fails when its attempts cost more.")


class WorkflowSpec(_Part):
    """A workflow: steps that form a directed acyclic graph."""

    name: Name
    description: str = Field("", max_length=10_000)
    inputs: dict[str, Any] = Field(default_factory=dict, description="JSON Schema 2020-12 of the run's input.")
    steps: tuple[Step, ...] = Field(min_length=1, max_length=MAX_STEPS)
    outputs: dict[str, Any] = Field(default_factory=dict, description="Expressions over what the steps gave.")
    policies: Policies = Policies()
    triggers: tuple[Trigger, ...] = Field((), max_length=50, description="What starts runs besides `execute`.")
    variables: dict[Name, Declared] = Field(
        default_factory=dict, description="Values or `{value, scope, ttl}`; expressions see them as `vars`."
    )

    def to_json(self) -> dict[str, Any]:
        """The spec as it goes over the wire: what was said, without what was left to its default."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)
