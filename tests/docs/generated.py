"""Parts of the reference that the code knows best: nodes, the fields of a spec, the paths of the REST interface.

They stand in their pages between `<!-- generated: NAME -->` and `<!-- end -->`. A test compares them with what the
code says now, and this writes them anew:

    python -m tests.docs.generated
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from pydantic import BaseModel

from api.app import create_app
from api.catalogue import open_registry
from core.route import Arm, Breaker, Route, Rule
from core.spec import Cache, Policies, Rate, Retry, RunLimit, Step, StepLimit, StepRoute, WorkflowSpec
from core.trigger import CronTrigger, EventTrigger, ManualTrigger, WebhookTrigger
from core.variable import VariableSpec
from engine.node.version import NodeVersion
from infra.clock import SystemClock
from infra.settings import Settings

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
_PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->\n)", re.DOTALL)
_PREFIX = "/api/v1"
_WIDTH = 118

_MODELS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("A workflow", WorkflowSpec),
    ("A step", Step),
    ("`retry`", Retry),
    ("`cache`", Cache),
    ("`limit` of a step", StepLimit),
    ("`rate`", Rate),
    ("`route` of a step", StepRoute),
    ("`policies`", Policies),
    ("`concurrency` of the policies", RunLimit),
    ("A variable", VariableSpec),
    ("A trigger by the clock", CronTrigger),
    ("A trigger by a request", WebhookTrigger),
    ("A trigger by an event", EventTrigger),
    ("A trigger by hand", ManualTrigger),
    ("A route", Route),
    ("`arms` of a route", Arm),
    ("`rules` of a route", Rule),
    ("`breaker` of a route", Breaker),
)

_SAID = {
    "WorkflowSpec.name": "Letters, digits, `_`, `.` and `-`; up to 128. A spec of the same name is its next version.",
    "WorkflowSpec.description": "For people.",
    "WorkflowSpec.steps": "Up to 2,000. They form a graph without cycles.",
    "WorkflowSpec.policies": "Rules for the run as a whole.",
    "Step.description": "For people.",
    "Step.retry": "When and how often an attempt is repeated. Without it there is one attempt.",
    "Step.cache": "Use a result again instead of calling the node.",
    "Step.limit": "How much of the step runs at once over all runs.",
    "Step.route": "Overrides the route of the node.",
    "Retry.on": "[Error classes](traces.md). Where an unsafe effect may have happened already (a POST that timed out), "
    "the attempt is repeated only if its class is named here.",
    "Retry.factor": "Each delay is this many times the one before.",
    "StepLimit.concurrency": "Calls at once.",
    "StepLimit.rate": "Calls that start in a time.",
    "Rate.calls": "How many.",
    "Rate.per": "In which time.",
    "StepRoute.goal": "What changes of the weights aim at, or a weight for each metric.",
    "RunLimit.max": "Runs at once.",
    "VariableSpec.value": "Any JSON value.",
    "VariableSpec.scope": "Who sees it.",
    "WebhookTrigger.path": "Below `/webhooks/`; belongs to one workflow.",
    "WebhookTrigger.methods": "What else is refused.",
    "ManualTrigger.input": "What the form begins with.",
    "Route.arms": "The versions, with their shares.",
    "Route.rules": "Other shares for some calls.",
}
"""For fields whose model says nothing, or not enough."""
_MOST_WORDS = 7
_WEBHOOK = "Start a run, as the webhook of this path says"
_OF_EVERY_TRIGGER = {"type": "The kind.", "description": "For people."}


def parts() -> Mapping[tuple[str, str], Callable[[], str]]:
    """The generated parts, by page and name."""
    return {("nodes.md", "nodes"): _nodes, ("spec.md", "fields"): _fields, ("rest.md", "paths"): _paths}


def with_parts(page: str, text: str) -> str:
    """The text of a page, with its generated parts as the code says now."""

    def part(match: re.Match[str]) -> str:
        return f"{match[1]}\n{parts()[page, match[2]]()}\n{match[3]}"

    return _PART.sub(part, text)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines) + "\n"


def _fields() -> str:
    return "\n".join(f"## {title}\n\n{_model(model)}" for title, model in _MODELS)


def _model(model: type[BaseModel]) -> str:
    schema = model.model_json_schema(by_alias=True)
    rows = []
    for name, field in schema["properties"].items():
        said = _SAID.get(f"{model.__name__}.{name}") or field.get("description") or _OF_EVERY_TRIGGER.get(name)
        assert said, f"nothing is said about {model.__name__}.{name}"
        required = name in schema.get("required", ())
        rows.append((f"`{name}`", _type(field, schema), "required" if required else _default(field), _one_line(said)))
    return _table(("field", "type", "default", "meaning"), rows)


def _nodes() -> str:
    registry = open_registry(Settings(_env_file=None), SystemClock(), None)
    return "\n".join(_node(registry.resolve(name)) for name in registry.names())


def _node(version: NodeVersion) -> str:
    manifest = version.manifest
    schema = manifest.input_schema
    rows = []
    for name, field in schema["properties"].items():
        if name == "inputs" and manifest.name == "flow.merge":
            continue  # comes from the graph
        required = name in schema.get("required", ())
        cells = (
            f"`{name}`",
            _type(field, schema),
            "required" if required else _default(field),
            _one_line(field.get("description", "")),
        )
        rows.append(cells)
    notes = [f"effect: {manifest.effect.value}"]
    if manifest.secret_fields:
        notes.append("secrets may stand in " + _names(manifest.secret_fields))
    if manifest.error_classes:
        notes.append("error classes: " + _names(str(one) for one in manifest.error_classes))
    if manifest.metrics:
        notes.append("reports " + _names(manifest.metrics))
    facts = f"{manifest.name}@{manifest.version}; {'; '.join(notes)}."
    about = f"{manifest.description}\n\n{fill(facts, _WIDTH, break_long_words=False, break_on_hyphens=False)}"
    return f"## {manifest.name}\n\n{about}\n\n{_table(('parameter', 'type', 'default', 'meaning'), rows)}"


def _paths() -> str:
    document = create_app(None, 0).openapi()
    rows = []
    for path, operations in document["paths"].items():
        if "/webhooks/" in path:
            rows.append((f"`{' '.join(one.upper() for one in operations)} {path.removeprefix(_PREFIX)}`", _WEBHOOK, ""))
            continue
        for method, operation in operations.items():
            asked = [f"`{one['name']}`" for one in operation.get("parameters", ()) if one["in"] == "query"]
            rows.append((f"`{method.upper()} {path.removeprefix(_PREFIX)}`", operation["summary"], " ".join(asked)))
    return _table(("call", "what it does", "query"), rows)


def _names(names: Any) -> str:
    return ", ".join(f"`{one}`" for one in names)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _default(field: Mapping[str, Any]) -> str:
    default = field.get("default")
    if default in (None, "", [], {}):
        return ""
    if _is_duration(field):
        return f"`{default:g}s`"
    if isinstance(default, dict):
        return "the defaults below" if default.keys() & {"on_error", "priority"} else f"`{json.dumps(default)}`"
    if isinstance(default, list):
        return ", ".join(f"`{one}`" for one in sorted(default))
    return f"`{default}`" if isinstance(default, str) else f"`{json.dumps(default)}`"


def _is_duration(field: Mapping[str, Any]) -> bool:
    return any("ms|s|m|h|d" in one.get("pattern", "") for one in field.get("anyOf", ()))


def _type(field: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    return " or ".join(dict.fromkeys(_types(field, schema))) or "any"


def _types(field: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[str]:
    if "$ref" in field:
        found = schema["$defs"][field["$ref"].rpartition("/")[2]]
        if "enum" in found:
            yield from _types(found, schema)
        else:
            yield "object"
    elif _is_duration(field):
        yield "duration"
    elif "anyOf" in field or "oneOf" in field:
        for one in field.get("anyOf") or field["oneOf"]:
            if one.get("type") != "null":
                yield from _types(one, schema)
    elif "const" in field:
        yield f"`{field['const']}`"
    elif "enum" in field:
        yield from (f"`{one}`" for one in field["enum"])
    elif field.get("format") == "cel":
        yield "CEL"
    elif field.get("type") == "array":
        words = list(dict.fromkeys(_types(field["items"], schema))) if field.get("items") else []
        yield f"list of {_plural(' or '.join(words))}" if 0 < len(words) <= _MOST_WORDS else "list"
    elif "type" in field:
        yield {"boolean": "true or false"}.get(field["type"], field["type"])


def _plural(word: str) -> str:
    return f"{word}s" if word in ("string", "object", "number", "integer") else word


def _main() -> None:
    for page in dict.fromkeys(page for page, _ in parts()):
        path = REFERENCE / page
        path.write_text(with_parts(page, path.read_text()))


if __name__ == "__main__":
    _main()
