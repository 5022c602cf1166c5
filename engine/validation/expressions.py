"""Faults of expressions: those that do not compile, and those that refer to what is not there."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from core.errors import Fault
from core.json import JsonValue
from core.manifest import NodeManifest
from engine.composition.literal import split_literal
from engine.expression.errors import ExpressionSyntaxError
from engine.expression.program import compile_expression
from engine.expression.references import Reference
from engine.expression.template import TemplateExpression, compile_template
from engine.json_path import child
from engine.validation.draft import StepDraft
from engine.wording import did_you_mean, listed, nearest, shortened

ROOTS = ("input", "steps", "vars", "context", "run")
"""What an expression may begin with everywhere."""

_ELEMENT_ROOTS = ("item", "index")
_NODE_ROOTS = (*_ELEMENT_ROOTS, "event")
"""What the nodes that take raw CEL give it besides: elements of a list, the awaited event."""

_STEP_FIELDS = ("output", "error", "status")


@dataclass(frozen=True, slots=True)
class Place:
    """Where expressions stand: what they may begin with, and whether a secret may stand there.

    Attributes:
        in_body: inside steps that are run for each item, or again and again; those get all by their `input`.
    """

    roots: tuple[str, ...] = ROOTS
    secrets: bool = False
    in_body: bool = False


@dataclass(slots=True)
class Scan:
    """The expressions of a step or of the outputs.

    Attributes:
        found: every expression that compiles (its path from the document's root) with its place.
        broken: sources that do not compile; what they mean to refer to is not known.
    """

    found: list[tuple[TemplateExpression, Place]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    @property
    def references(self) -> Iterator[Reference]:
        """What all of them refer to."""
        return (one for expression, _ in self.found for one in expression.references)

    def template(self, value: JsonValue, path: str, place: Place) -> list[TemplateExpression]:
        """Compile a value with expressions, however many of them are wrong; gives those that are right."""
        try:
            template = compile_template(value)
        except ExpressionSyntaxError as error:
            return self._apart(value, path, place, error)
        expressions = [
            TemplateExpression(path + one.path[1:], one.source, one.references, one.whole)
            for one in template.expressions
        ]
        self.found.extend((one, place) for one in expressions)
        return expressions

    def raw(self, value: JsonValue, path: str, place: Place) -> None:
        """Compile a text that is itself CEL."""
        if not isinstance(value, str):
            return
        try:
            references = compile_expression(value).analysis.references
        except ExpressionSyntaxError as error:
            hint = "; this field is an expression already, write it without {{ }}" if "{{" in value else ""
            self._refuse(value, path, error.message + hint)
        else:
            self.found.append((TemplateExpression(path, value, references, whole=False), place))

    def whole(self, value: JsonValue, path: str, wanted: str, place: Place) -> None:
        """Compile a field that must be one whole expression."""
        name = path.rpartition(".")[2]
        if not isinstance(value, str):
            return
        before = len(self.faults)
        expressions = self.template(value, path, place)
        if len(self.faults) == before and not (len(expressions) == 1 and expressions[0].whole):
            suggestion = f"{{{{ {value.strip()} }}}}" if value.strip() and "{{" not in value else None
            self.broken.append(value)
            said = f"`{name}` must be {wanted}, not text{did_you_mean(suggestion)}"
            self.faults.append(Fault(path, "bad_expression", said, suggestion))

    def key(self, value: str, path: str, place: Place) -> None:
        """Compile a text that tells calls apart: without an expression it would be the same for all."""
        before = len(self.faults)
        if not self.template(value, path, place) and len(self.faults) == before:
            suggestion = f"{{{{ {value.strip()} }}}}" if _looks_like_one(value) else None
            said = f"`key` has no expression in {{{{ }}}}, so it would be the same for all{did_you_mean(suggestion)}"
            self.broken.append(value)
            self.faults.append(Fault(path, "bad_expression", said, suggestion))

    def _apart(
        self, value: JsonValue, path: str, place: Place, error: ExpressionSyntaxError
    ) -> list[TemplateExpression]:
        before, right = len(self.faults), []
        if isinstance(value, dict):
            for key, one in value.items():
                right += self.template(one, child(path, key), place)
        elif isinstance(value, list):
            for index, one in enumerate(value):
                right += self.template(one, child(path, index), place)
        if len(self.faults) == before:
            self._refuse(value if isinstance(value, str) else "", path, error.message)
        return right

    def _refuse(self, source: str, path: str, said: str) -> None:
        self.broken.append(source)
        self.faults.append(Fault(path, "bad_expression", f"not a usable expression: {said}"))


def scan_step(draft: StepDraft, manifest: NodeManifest | None, in_body: bool = False) -> Scan:
    """Compile all expressions of a step. Without its node's manifest every parameter is taken for a template.

    Literal parts (the steps of a body) are left out: they are read as documents of their own.
    """
    scan = Scan()
    secret_fields: Collection[str] = manifest.secret_fields if manifest else draft.params or ()
    raw_fields: Collection[str] = manifest.expression_fields if manifest else ()
    roots = ROOTS if draft.foreach is None else ROOTS + _ELEMENT_ROOTS
    params, _ = split_literal(draft.params or {}, manifest.literal_fields if manifest else ())
    for name, value in params.items():
        path = child(f"{draft.path}.with", name)
        if manifest and name in raw_fields:
            scan.raw(value, path, Place(_raw_roots(manifest, name), in_body=in_body))
        else:
            scan.template(value, path, Place(roots, name in secret_fields, in_body))
    for path, key in draft.keys:
        scan.key(key, path, Place(roots, in_body=in_body))
    plain = Place(in_body=in_body)
    if not isinstance(draft.when, bool):
        scan.whole(draft.when, f"{draft.path}.when", "true, false or one expression in {{ }}", plain)
    if isinstance(draft.foreach, list):
        scan.template(draft.foreach, f"{draft.path}.foreach", plain)
    elif draft.foreach is not None:
        scan.whole(draft.foreach, f"{draft.path}.foreach", "a list or one expression in {{ }}", plain)
    return scan


def _raw_roots(manifest: NodeManifest, name: str) -> tuple[str, ...]:
    """What the CEL of a parameter may begin with: as its schema says."""
    described = manifest.input_schema.get("properties", {}).get(name, {}).get("x-roots")
    return tuple(described) if isinstance(described, list) else ROOTS + _NODE_ROOTS


def _looks_like_one(value: str) -> bool:
    try:
        references = compile_expression(value.strip()).analysis.references
    except ExpressionSyntaxError:
        return False
    return any(one.root in ROOTS + _ELEMENT_ROOTS and one.path for one in references)


def reference_faults(scan: Scan, steps: Mapping[str, object], inputs: JsonValue) -> Iterator[Fault]:
    """References of the scanned expressions that lead nowhere.

    Args:
        steps: the workflow's steps by id.
        inputs: the schema of the run's input, as written.
    """
    for expression, place in scan.found:
        for reference in expression.references:
            fault = _fault(expression, reference, place, steps, inputs)
            if fault is not None:
                yield fault


def _fault(
    expression: TemplateExpression, reference: Reference, place: Place, steps: Mapping[str, object], inputs: JsonValue
) -> Fault | None:
    path, root = expression.path, reference.root
    if root == "secrets":
        if place.secrets:
            return None
        sentence = "a secret may stand only in a field that its node declares for secrets"
        return Fault(path, "secret_not_allowed", f"{sentence}, so `{reference}` cannot stand here")
    if root not in place.roots:
        return _unknown_root(path, root, place, steps)
    if root == "steps":
        return _unknown_step(path, reference, steps, expression.source)
    if root == "input" and reference.path:
        return _unknown_input(path, reference.path[0], inputs)
    return None


def _unknown_root(path: str, root: str, place: Place, steps: Iterable[str]) -> Fault:
    if place.in_body and root in (*_ELEMENT_ROOTS, "loop"):
        said = f"steps inside a step get all that they work on as their `input`; did you mean `input.{root}`?"
        return Fault(path, "unknown_reference", said, f"input.{root}")
    if root in _ELEMENT_ROOTS:
        said = f"`{root}` exists only in the parameters of a step with `foreach`"
        return Fault(path, "unknown_reference", said)
    suggestion = f"steps.{root}" if root in set(steps) else nearest(root, place.roots)
    hint = did_you_mean(suggestion) or f"; an expression begins with one of {listed(place.roots)}"
    return Fault(path, "unknown_reference", f"there is no `{shortened(root, 60)}` here{hint}", suggestion)


def _unknown_step(path: str, reference: Reference, steps: Mapping[str, object], source: str) -> Fault | None:
    name = reference.path[0]
    if name not in steps:
        hyphened = next((one for one in steps if one.startswith(f"{name}-") and f"steps.{one}" in source), None)
        if hyphened:
            said = f'`steps.{hyphened}` reads as a subtraction; write `steps["{hyphened}"]`'
            return Fault(path, "unknown_reference", said, hyphened)
        suggestion = nearest(name, steps)
        said = f"`{reference}`: there is no step `{name}`{did_you_mean(suggestion)}"
        return Fault(path, "unknown_reference", said, suggestion)
    if len(reference.path) > 1 and reference.path[1] not in _STEP_FIELDS:
        field_name = reference.path[1]
        suggestion = nearest(field_name, _STEP_FIELDS) or f"output.{field_name}"
        said = f"`{reference}`: a step has `output`, `error` and `status`, but no `{field_name}`"
        return Fault(path, "unknown_reference", said + did_you_mean(suggestion), suggestion)
    return None


def _unknown_input(path: str, name: str, inputs: JsonValue) -> Fault | None:
    if not isinstance(inputs, dict) or inputs.get("additionalProperties") is not False:
        return None
    known = inputs.get("properties")
    if not isinstance(known, dict) or name in known or "patternProperties" in inputs:
        return None
    suggestion = nearest(name, known)
    said = f"the inputs allow no `{name}`{did_you_mean(suggestion)}"
    return Fault(path, "unknown_reference", said, suggestion)
