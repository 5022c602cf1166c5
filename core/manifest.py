"""What a node version says about itself, so that it can be validated, drawn, tuned and retried without running it."""

from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Effect(StrEnum):
    """What running a step twice means."""

    PURE = "pure"
    """Nothing outside changes; running again is always safe."""
    IDEMPOTENT = "idempotent"
    """Running again with the same idempotency key changes nothing more."""
    UNSAFE = "unsafe"
    """Running again may do the thing twice; after a crash a person decides."""


class NodeStatus(StrEnum):
    """Where a version stands in its life."""

    DRAFT = "draft"
    STAGING = "staging"
    PRODUCTION = "production"
    DEPRECATED = "deprecated"


class Tunable(BaseModel):
    """A parameter that the Optimizer may change, and how far.

    A range (`low`, `high`, inclusive) or a list of `choices`. `scale` is how the search walks the range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: float | None = None
    high: float | None = None
    choices: tuple[str | int | float | bool, ...] | None = None
    scale: Literal["linear", "log"] = "linear"
    unit: str | None = None


class NodeManifest(BaseModel):
    """A node version's contract.

    `input_schema` and `output_schema` are JSON Schema 2020-12. `secret_fields` are the top-level parameters in which
    `{{ secrets.NAME }}` may stand. `expression_fields` are parameters whose text is itself CEL and is not
    resolved before the node runs. `literal_fields` are taken as they are written, because they hold steps with
    expressions of their own: paths below the parameters, `*` for any member (`branches.*.steps`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str
    title: str
    description: str = ""
    category: str = "general"
    effect: Effect = Effect.UNSAFE
    status: NodeStatus = NodeStatus.PRODUCTION
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]
    tunables: dict[str, Tunable] = Field(default_factory=dict)
    secret_fields: tuple[str, ...] = ()
    expression_fields: tuple[str, ...] = ()
    literal_fields: tuple[str, ...] = ()
    error_classes: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    security_sensitive: bool = False
