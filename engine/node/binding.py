"""A node version that is another node with parameters filled in: no code, only data."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from core.json import JsonValue
from core.manifest import Effect, NodeManifest, NodeStatus, Tunable
from core.spec import Name, NodeRef
from engine.expression.template import Template, compile_template
from engine.node.version import Binding, NodeVersion

MAX_BINDINGS = 5
"""Bindings on top of each other."""

Label = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,63}$")]


class BindingSpec(BaseModel):
    """What a person writes to make a node version without code."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    name: Name = Field(examples=["payment.charge"])
    version: str = Field(max_length=64, description="A semantic version.", examples=["1.0.0"])
    label: Label | None = Field(None, description="A name for this version that routes may use.", examples=["stripe"])
    title: str = Field("", max_length=200)
    description: str = Field("", max_length=10_000)
    base: NodeRef = Field(description="The node that does the work; resolved now, and kept.", examples=["http.request"])
    with_: dict[str, Any] = Field(
        default_factory=dict,
        alias="with",
        description="The base's parameters; expressions see `input` (what the step passes), `context` and `run`.",
    )
    output: Any = Field(
        None, description="Expressions over `output` (the base's) and `input`. Without it the output is the base's."
    )
    effect: Effect | None = Field(None, description="What running it twice means. Default: what the base says of it.")
    input_schema: dict[str, Any] | None = Field(None, description="JSON Schema of what the step passes.")
    output_schema: dict[str, Any] | None = None
    tunables: dict[str, Tunable] = Field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """What was said, without what was left to its default."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


def raw_fields(manifest: NodeManifest) -> frozenset[str]:
    """Top-level parameters that are not resolved before the node gets them."""
    return frozenset(manifest.expression_fields) | {path.partition(".")[0] for path in manifest.literal_fields}


def output_template(value: JsonValue) -> Template | None:
    """The template of a binding's output; a text without braces is one expression. Raises ExpressionSyntaxError."""
    if value is None:
        return None
    bare = isinstance(value, str) and "{{" not in value
    return compile_template(f"{{{{ {value} }}}}" if bare else value)


def bound_version(spec: BindingSpec, base: NodeVersion, status: NodeStatus) -> NodeVersion:
    """The node version that a spec and its base make.

    Raises:
        ExpressionSyntaxError: an expression is wrong.
    """
    below = base.manifest
    raw = raw_fields(below)
    params = compile_template({key: value for key, value in spec.with_.items() if key not in raw})
    output = output_template(spec.output)
    manifest = NodeManifest(
        name=spec.name,
        version=spec.version,
        title=spec.title or spec.name,
        description=spec.description,
        category=below.category,
        effect=spec.effect or base.effect_of(spec.with_),
        status=status,
        input_schema=spec.input_schema if spec.input_schema is not None else _inputs(params),
        output_schema=spec.output_schema
        if spec.output_schema is not None
        else below.output_schema
        if output is None
        else {},
        tunables=spec.tunables,
        error_classes=below.error_classes,
        metrics=below.metrics,
        security_sensitive=below.security_sensitive,
    )
    binding = Binding(base, params, {key: value for key, value in spec.with_.items() if key in raw}, output)
    return NodeVersion(manifest, _not_called, base.lane, base.parameters, label=spec.label, binding=binding)


def _not_called(**_: Any) -> JsonValue:
    raise TypeError("a bound version is not called itself; its base is")


def _inputs(params: Template) -> dict[str, Any]:
    """What the step has to pass, as far as the expressions tell. A plain reference fails when nothing is there."""
    named = [one.path[0] for one in params.references if one.root == "input" and one.path]
    plain = {
        program.path[1]
        for program in params.programs
        if program.path is not None and program.path[:1] == ("input",) and len(program.path) > 1
    }
    schema: dict[str, Any] = {"type": "object"}
    if named:
        schema["properties"] = {name: {} for name in dict.fromkeys(named)}
    if plain:
        schema["required"] = sorted(plain)
    return schema
