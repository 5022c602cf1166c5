"""Makes a node from a typed function.

    @node("payment.charge", version="1.0.0", effect="idempotent")
    async def charge(amount: float, currency: Literal["EUR", "USD"] = "EUR") -> Receipt:
        \"\"\"Charge a card.

        Args:
            amount: in units of the currency.
        \"\"\"

The manifest comes from the signature and the docstring, so that it cannot drift from the code.
"""

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

from core.errors import ErrorClass
from core.json import JsonValue
from core.manifest import Effect, NodeManifest, NodeStatus, Tunable
from engine.node.context import StepContext
from engine.node.docstring import parse_docstring
from engine.node.parameters import ABSENT, Cel, Parameters, Secret, read_parameters
from engine.node.semver import Version
from engine.node.version import Lane, NodeVersion, Origin

__all__ = ["ABSENT", "Cel", "Lane", "NodeVersion", "Secret", "StepContext", "Tunable", "node"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}")
_NOTHING: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


def node(
    name: str,
    *,
    version: str,
    effect: Effect | Literal["pure", "idempotent", "unsafe"] = Effect.UNSAFE,
    lane: Lane | Literal["inline", "async", "process", "timer", "wait", "composite", "end"] | None = None,
    title: str | None = None,
    category: str = "general",
    status: NodeStatus = NodeStatus.PRODUCTION,
    error_classes: tuple[ErrorClass, ...] = (),
    metrics: tuple[str, ...] = (),
    security_sensitive: bool = False,
    joins: bool = False,
    output_schema: dict[str, Any] | None = None,
    literal_fields: tuple[str, ...] = (),
    effect_rule: Callable[[Mapping[str, JsonValue]], Effect] | None = None,
    close: Callable[[], Awaitable[None]] | None = None,
    expands: bool = False,
) -> Callable[[Callable[..., Any]], NodeVersion]:
    """Turn a function into a NodeVersion.

    Args:
        name: dotted name under which steps refer to the node.
        version: semantic version (`1.0.0`).
        effect: what running a step twice means; say `idempotent` or `pure` when it is harmless.
        lane: default: `async` for `async def`, `process` for `def`.
        title: default: the docstring's first line.
        category: group in the palette.
        status: where the version stands in its life.
        error_classes: the failures that callers should expect.
        metrics: names of the figures that the node reports.
        security_sensitive: a change of this node always needs a person's approval.
        joins: see NodeVersion; the parameter `inputs` is filled by the engine and is not in the schema.
        output_schema: of the step, where the function only describes what the engine does.
        literal_fields: see NodeManifest.
        effect_rule: see NodeVersion.
        close: releases what the node holds.
        expands: see NodeVersion.

    Raises:
        TypeError: at decoration, when name, version, signature or lane cannot be a node's.
    """
    if not _NAME.fullmatch(name):
        raise TypeError(f"{name[:60]!r} is not a node name; write for example payment.charge")
    try:
        Version.parse(version)
    except ValueError as error:
        raise TypeError(f"{name}: {error}") from None

    def decorate(function: Callable[..., Any]) -> NodeVersion:
        docstring = parse_docstring(function.__doc__)
        parameters = read_parameters(function, docstring.parameters)
        chosen = _lane(function, lane, parameters)
        manifest = NodeManifest(
            name=name,
            version=version,
            title=title or docstring.title or name,
            description=docstring.description,
            category=category,
            effect=Effect(effect),
            status=status,
            input_schema=_without_inputs(parameters.input_schema) if joins else parameters.input_schema,
            output_schema=_output_schema(chosen, parameters, output_schema),
            tunables=parameters.tunables,
            secret_fields=parameters.secret_fields,
            expression_fields=parameters.expression_fields,
            literal_fields=literal_fields,
            error_classes=tuple(error_classes),
            metrics=metrics,
            security_sensitive=security_sensitive,
        )
        origin = Origin(function.__module__, function.__qualname__, inspect.getsourcefile(function))
        return NodeVersion(manifest, function, chosen, parameters, joins, effect_rule, origin, close, expands)

    return decorate


def _lane(function: Callable[..., Any], asked: Lane | str | None, parameters: Parameters) -> Lane:
    what = function.__qualname__
    is_async = inspect.iscoroutinefunction(function)
    lane = Lane(asked) if asked is not None else Lane.ASYNC if is_async else Lane.PROCESS
    if is_async != (lane is Lane.ASYNC):
        raise TypeError(f"{what}: the {lane} lane takes {'`async def`' if lane is Lane.ASYNC else 'a plain `def`'}")
    if lane is Lane.PROCESS and "<locals>" in what:
        raise TypeError(f"{what}: a child process must find the function; define it at the top of its module")
    if lane is Lane.PROCESS and parameters.expression_fields:
        raise TypeError(f"{what}: a child process cannot evaluate expressions; make it `async def`")
    return lane


def _output_schema(lane: Lane, parameters: Parameters, given: dict[str, Any] | None) -> dict[str, Any]:
    if lane is Lane.TIMER:
        return _NOTHING
    return (given or {}) if lane.described else parameters.output_schema


def _without_inputs(schema: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in schema.items() if key != "required"}
    kept["properties"] = {key: value for key, value in schema["properties"].items() if key != "inputs"}
    required = [key for key in schema.get("required", []) if key != "inputs"]
    return {**kept, "required": required} if required else kept
