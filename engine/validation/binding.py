"""What is wrong with a binding, before it becomes a version that nobody can change."""

from collections.abc import Iterator

from core.errors import Fault, Invalid
from core.json import JsonValue
from core.manifest import NodeManifest, NodeStatus
from engine.expression.errors import ExpressionSyntaxError
from engine.json_path import child
from engine.json_schema import SchemaError, check_schema
from engine.node.binding import MAX_BINDINGS, BindingSpec, bound_version, output_template, raw_fields
from engine.node.registry import NodeNotFound, NodeRegistry
from engine.node.semver import Version
from engine.node.version import Lane, NodeVersion
from engine.validation.document import document_faults
from engine.validation.expressions import Place, Scan
from engine.validation.parameters import parameter_faults
from engine.wording import did_you_mean, listed, nearest, sentence

_ROOTS = ("input", "context", "run")
_OUTPUT_ROOTS = ("output", "input")
_RAW_ROOTS = (*_ROOTS, "item", "index", "event")
_LANES = frozenset({Lane.INLINE, Lane.ASYNC, Lane.PROCESS})


def bind(spec: BindingSpec, registry: NodeRegistry, status: NodeStatus) -> tuple[NodeVersion, str]:
    """The version that a spec means, and the exact reference of its base.

    Raises:
        Invalid: with all faults.
    """
    faults = [*_version_faults(spec), *_schema_faults(spec), *_size_faults(spec)]
    base, missing = _base(spec, registry)
    faults += missing
    if base is not None:
        faults += _base_faults(base)
        faults += _with_faults(spec, base.manifest)
    faults += _output_faults(spec)
    if faults or base is None:
        worded = [Fault(one.path, one.code, sentence(one.message), one.suggestion) for one in faults]
        raise Invalid(f"the node version has {len(worded)} fault{'s' * (len(worded) > 1)}", worded)
    return bound_version(spec, base, status), str(base)


def _version_faults(spec: BindingSpec) -> Iterator[Fault]:
    try:
        Version.parse(spec.version)
    except ValueError as error:
        yield Fault("$.version", "bad_value", str(error))
    if "+" in spec.version:
        # Semver says that it makes no difference, so it must not tell two versions apart.
        yield Fault("$.version", "bad_value", "a version here has no build part; leave out the `+` and what follows")


def _schema_faults(spec: BindingSpec) -> Iterator[Fault]:
    for name, schema in (("input_schema", spec.input_schema), ("output_schema", spec.output_schema)):
        if schema is not None:
            try:
                check_schema(schema)
            except SchemaError as error:
                yield Fault(f"$.{name}", "bad_schema", f"`{name}`: {error}")


def _size_faults(spec: BindingSpec) -> Iterator[Fault]:
    for name, value in (("with", spec.with_), ("output", {"output": spec.output})):
        for fault in document_faults({"steps": [], "value": value}):
            yield Fault(f"$.{name}", fault.code, fault.message)


def _base(spec: BindingSpec, registry: NodeRegistry) -> tuple[NodeVersion | None, list[Fault]]:
    try:
        return registry.resolve(spec.base), []
    except NodeNotFound as missing:
        name = spec.base.partition("@")[0]
        if missing.suggestion is not None and missing.suggestion.startswith(f"{name}@"):
            return None, [Fault("$.base", "unknown_version", f"the node {missing.detail}", missing.suggestion)]
        suggestion = nearest(name, registry.names())
        said = f"there is no node `{name}`{did_you_mean(suggestion)}"
        return None, [Fault("$.base", "unknown_node", said, suggestion)]


def _base_faults(base: NodeVersion) -> Iterator[Fault]:
    name = base.manifest.name
    if base.lane not in _LANES or base.joins or base.expands or name.startswith("flow."):
        yield Fault("$.base", "bad_value", f"`{name}` steers the run itself, so nothing can be built on it")
    if base.binding is not None and base.binding.depth >= MAX_BINDINGS:
        said = f"at most {MAX_BINDINGS} node versions may be built on each other; use `{_lowest(base)}` directly"
        yield Fault("$.base", "too_deep", said, str(_lowest(base)))


def _lowest(version: NodeVersion) -> NodeVersion:
    while version.binding is not None:
        version = version.binding.base
    return version


def _with_faults(spec: BindingSpec, manifest: NodeManifest) -> Iterator[Fault]:
    scan = Scan()
    for name, value in spec.with_.items():
        path = child("$.with", name)
        if name in manifest.expression_fields:
            scan.raw(value, path, Place(_RAW_ROOTS))
        elif name not in raw_fields(manifest):
            scan.template(value, path, Place(_ROOTS, name in manifest.secret_fields))
    yield from scan.faults
    yield from _reference_faults(scan, spec.input_schema)
    yield from parameter_faults(manifest, spec.with_, "$.with", [one for one, _ in scan.found])


def _output_faults(spec: BindingSpec) -> Iterator[Fault]:
    scan = Scan()
    try:
        output_template(spec.output)
    except ExpressionSyntaxError as error:
        yield Fault(f"$.output{error.path[1:]}", "bad_expression", f"not a usable expression: {error.message}")
        return
    if isinstance(spec.output, str) and "{{" not in spec.output:
        scan.raw(spec.output, "$.output", Place(_OUTPUT_ROOTS))
    elif spec.output is not None:
        scan.template(spec.output, "$.output", Place(_OUTPUT_ROOTS))
    yield from _reference_faults(scan, spec.input_schema)


def _reference_faults(scan: Scan, inputs: JsonValue) -> Iterator[Fault]:
    for expression, place in scan.found:
        for reference in expression.references:
            root = reference.root
            if root == "secrets" and not place.secrets:
                said = f"a secret may stand only in a field that the base declares for secrets, not `{reference}` here"
                yield Fault(expression.path, "secret_not_allowed", said)
            elif root != "secrets" and root not in place.roots:
                suggestion = nearest(root, place.roots)
                hint = did_you_mean(suggestion) or f"; an expression begins with one of {listed(place.roots)}"
                yield Fault(expression.path, "unknown_reference", f"there is no `{root}` here{hint}", suggestion)
            elif root == "input" and reference.path:
                yield from _input_faults(expression.path, reference.path[0], inputs)


def _input_faults(path: str, name: str, inputs: JsonValue) -> Iterator[Fault]:
    if isinstance(inputs, dict) and inputs.get("additionalProperties") is False and "patternProperties" not in inputs:
        known = inputs.get("properties")
        if isinstance(known, dict) and name not in known:
            suggestion = nearest(name, known)
            said = f"the input schema allows no `{name}`{did_you_mean(suggestion)}"
            yield Fault(path, "unknown_reference", said, suggestion)
