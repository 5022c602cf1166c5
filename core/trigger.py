"""What starts runs besides a call of `execute`: the `triggers` of a workflow spec."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from core.duration import Duration

TriggerName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,127}$")]


class _Trigger(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: TriggerName | None = Field(None, description="Unique in the workflow; default: made from what it says.")
    description: str = Field("", max_length=2_000)
    enabled: bool = Field(True, description="Whether it fires when the workflow is stored; it can be paused later.")


class CronTrigger(_Trigger):
    """By the clock. Each time starts one run, however many servers there are."""

    type: Literal["cron"]
    schedule: str = Field(
        min_length=1,
        max_length=200,
        description="Five fields, as in cron, or @hourly, @daily, @weekly, @monthly, @yearly.",
        examples=["*/5 * * * *"],
    )
    timezone: str = Field("UTC", max_length=64, description="IANA name.", examples=["Europe/Berlin"])
    missed: Literal["skip", "once", "all"] = Field(
        "once", description="What to do about times that passed while no server ran; `all` makes up for 100 at most."
    )
    input: dict[str, Any] = Field(default_factory=dict, description="The run's input; expressions over `trigger`.")


class WebhookTrigger(_Trigger):
    """By an HTTP request to `/webhooks/{path}`."""

    type: Literal["webhook"]
    path: str = Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./-]*$")
    methods: tuple[Literal["GET", "POST", "PUT", "PATCH", "DELETE"], ...] = Field(("POST",), min_length=1)
    secret: str | None = Field(
        None, max_length=128, description="Name of the secret that signs requests; without it an API key is needed."
    )
    tolerance: Duration = Field(300.0, description="How old a signed time stamp may be.")
    answer: Literal["async", "sync"] = Field("async", description="`sync` waits for the run and answers its outputs.")
    wait: Duration = Field(30.0, gt=0, le=300, description="Longest time that `sync` waits.")
    request: bool = Field(False, description="Whether `_request` (method, headers, query) stands beside the body.")
    unit_key: str | None = Field(
        None, max_length=2_000, description="Expression over `body` and `request` (method, headers, query)."
    )


class EventTrigger(_Trigger):
    """By an event of this name."""

    type: Literal["event"]
    event: TriggerName | None = Field(None, description="The event's name; default: the trigger's own `name`.")
    match: str | None = Field(
        None, max_length=10_000, description="CEL over `event` (the payload) and `name`; default: every event."
    )
    correlation: str | None = Field(
        None, max_length=2_000, description="Expression over `event`; it becomes the run's `unit_key`."
    )
    input: dict[str, Any] | str | None = Field(None, description="Expressions over `event`; default: the payload.")


class ManualTrigger(_Trigger):
    """By a person: offered in the UI, with an input to begin with."""

    type: Literal["manual"]
    input: dict[str, Any] = Field(default_factory=dict)


Trigger = Annotated[CronTrigger | WebhookTrigger | EventTrigger | ManualTrigger, Field(discriminator="type")]
