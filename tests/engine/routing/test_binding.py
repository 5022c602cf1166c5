import dataclasses
from datetime import UTC, datetime
from typing import Any

import pytest

from core.errors import Invalid
from core.manifest import Effect, NodeStatus
from core.node_version import StoredNodeVersion
from engine.expression.evaluator import Evaluator
from engine.expression.secret import SecretText
from engine.node.binding import BindingSpec
from engine.node.registry import NodeNotFound, NodeRegistry
from engine.node.version import NodeVersion
from engine.node.workspaces import WorkspaceNodes
from engine.nodes import transform
from engine.nodes.egress import EgressPolicy
from engine.nodes.http import http_request_node
from engine.validation.binding import bind

CHARGE: dict[str, Any] = {
    "name": "payment.charge",
    "version": "1.0.0",
    "label": "stripe",
    "base": "http.request",
    "with": {
        "method": "POST",
        "url": "https://pay.example/{{ input.customer }}",
        "json": "{{ input }}",
        "headers": {"Authorization": "Bearer {{ secrets.STRIPE }}"},
    },
    "output": {"id": "{{ output.body.id }}", "amount": "{{ input.amount }}"},
}


@pytest.fixture
def registry() -> NodeRegistry:
    found = NodeRegistry()
    for version in (http_request_node(EgressPolicy([])), transform.map_value, transform.filter_items):
        found.register(version)
    return found


def made(registry: NodeRegistry, **changes: Any) -> NodeVersion:
    return bind(BindingSpec.model_validate({**CHARGE, **changes}), registry, NodeStatus.PRODUCTION)[0]


async def test_a_binding_fills_in_parameters(registry: NodeRegistry) -> None:
    spec = BindingSpec.model_validate(CHARGE)
    node, base = bind(spec, registry, NodeStatus.PRODUCTION)
    assert base == "http.request@1.0.0"
    binding = node.binding
    assert binding is not None
    assert (str(node), node.label, str(binding.base), binding.depth) == ("payment.charge@1.0.0", "stripe", base, 1)
    evaluator = Evaluator()
    given = {"customer": "c1", "amount": 5}
    params = await evaluator.resolve(binding.params, {"input": given, "context": {}, "run": {}})
    assert (params["url"], params["json"]) == ("https://pay.example/c1", given)
    assert isinstance(params["headers"]["Authorization"], SecretText)
    assert binding.params.secret_names == {"STRIPE"}
    assert binding.output is not None
    output = await evaluator.resolve(binding.output, {"output": {"body": {"id": 7}}, "input": given})
    assert output == {"id": 7, "amount": 5}


def test_what_the_manifest_says(registry: NodeRegistry) -> None:
    node = made(registry)
    assert node.manifest.effect is Effect.UNSAFE
    assert node.manifest.input_schema == {
        "type": "object",
        "properties": {"customer": {}},
        "required": ["customer"],
    }
    assert node.manifest.secret_fields == ()  # a step cannot pass secrets on to where they may not be
    assert made(registry, effect="idempotent").manifest.effect is Effect.IDEMPOTENT
    assert (
        made(registry, **{"with": {"url": "https://a.example", "method": "GET"}}).manifest.effect is Effect.IDEMPOTENT
    )
    assert made(registry, output=None).manifest.output_schema == registry.resolve("http.request").manifest.output_schema
    assert made(registry, output="output.body").binding is not None


def test_raw_fields_of_the_base_stay_as_they_are(registry: NodeRegistry) -> None:
    node = made(
        registry, base="transform.filter", output=None, **{"with": {"items": "{{ input.xs }}", "where": "item > 1"}}
    )
    assert node.binding is not None
    assert node.binding.raw == {"where": "item > 1"}


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"base": "http.requst"}, [("$.base", "unknown_node", "http.request")]),
        ({"base": "http.request@7.0.0"}, [("$.base", "unknown_version", "http.request@1.0.0")]),
        ({"version": "1.0"}, [("$.version", "bad_value", None)]),
        ({"version": "1.0.0+build"}, [("$.version", "bad_value", None)]),
        ({"with": {"metod": "GET", "url": "https://a"}}, [("$.with.metod", "unknown_parameter", "method")]),
        ({"with": {}}, [("$.with.url", "missing_parameter", None)]),
        ({"with": {"url": "{{ secrets.A }}"}}, [("$.with.url", "secret_not_allowed", None)]),
        ({"with": {"url": "{{ steps.a.output }}"}}, [("$.with.url", "unknown_reference", None)]),
        ({"with": {"url": "{{ inputs.a }}"}}, [("$.with.url", "unknown_reference", "input")]),
        ({"with": {"url": "{{ input. }}"}}, [("$.with.url", "bad_expression", None)]),
        ({"output": {"a": ["{{ out.body }}"]}}, [("$.output.a[0]", "unknown_reference", "output")]),
        ({"output": "1 +"}, [("$.output", "bad_expression", None)]),
        ({"input_schema": {"type": "strange"}}, [("$.input_schema", "bad_schema", None)]),
        (
            {"input_schema": {"additionalProperties": False, "properties": {"custmer": {}, "amount": {}}}},
            [("$.with.url", "unknown_reference", "custmer")],
        ),
    ],
)
def test_faults(registry: NodeRegistry, changes: dict[str, Any], found: list[tuple[str, str, str | None]]) -> None:
    with pytest.raises(Invalid) as caught:
        made(registry, **changes)
    assert [(one.path, one.code, one.suggestion) for one in caught.value.faults] == found


def test_bindings_on_bindings_have_an_end(registry: NodeRegistry) -> None:
    registry.register(made(registry, name="n1"))
    for depth in range(2, 6):
        node = made(registry, name=f"n{depth}", base=f"n{depth - 1}", output=None, **{"with": {"customer": "x"}})
        assert node.binding is not None
        assert node.binding.depth == depth
        registry.register(node)
    with pytest.raises(Invalid) as caught:
        made(registry, name="n6", base="n5", output=None, **{"with": {"customer": "x"}})
    assert [(one.path, one.code, one.suggestion) for one in caught.value.faults] == [
        ("$.base", "too_deep", "http.request@1.0.0")
    ]
    with pytest.raises(Invalid):
        made(registry, name="n7", base="n1", **{"with": {}})  # what it needs is not passed


class Shelf:
    """Stored versions of two workspaces."""

    def __init__(self, *stored: StoredNodeVersion) -> None:
        self.stored = list(stored)

    async def load(self) -> list[StoredNodeVersion]:
        return self.stored


def stored(name: str, version: str, base: str, workspace: str = "here", **changes: Any) -> StoredNodeVersion:
    now = datetime(2026, 3, 14, tzinfo=UTC)
    spec = {"name": name, "version": version, "base": base, **changes}
    return StoredNodeVersion(
        workspace, name, version, None, NodeStatus.PRODUCTION, spec, base, f"{spec}", now, "ann", now
    )


async def test_workspaces_see_their_own_versions_first(registry: NodeRegistry) -> None:
    url = {"with": {"url": "https://a.example"}}
    shelf = Shelf(
        stored("b.two", "1.0.0", "b.one@1.0.0"),  # before what it is built on
        stored("b.one", "1.0.0", "http.request@1.0.0", **url),
        stored("http.request", "2.0.0", "http.request@1.0.0", **url),
        stored("lost", "1.0.0", "gone@1.0.0"),
    )
    nodes = WorkspaceNodes(shelf, registry)
    await nodes.reload()
    here, there = registry.within("here"), registry.within("there")
    assert there is registry
    assert {"b.one", "b.two", "http.request", "transform.map"} <= set(here.names())
    assert "lost" not in here.names()
    assert str(here.resolve("http.request")) == "http.request@2.0.0"
    assert str(here.resolve("http.request@^1")) == "http.request@1.0.0"
    assert str(there.resolve("http.request")) == "http.request@1.0.0"
    assert [str(one) for one in here.versions("http.request")] == ["http.request@1.0.0", "http.request@2.0.0"]
    with pytest.raises(NodeNotFound):
        there.resolve("b.two")
    with pytest.raises(NodeNotFound, match=r"did you mean b\.one"):
        here.resolve("b.ones")

    before = here.resolve("b.two")
    shelf.stored[1:3] = [dataclasses.replace(shelf.stored[1], status=NodeStatus.DEPRECATED)]
    await nodes.reload()
    after = registry.within("here")
    assert after.resolve("b.two").binding is before.binding  # not compiled again
    assert after.resolve("b.one@1.0.0").manifest.status is NodeStatus.DEPRECATED
    with pytest.raises(NodeNotFound):
        after.resolve("b.one")
    assert str(after.resolve("http.request")) == "http.request@1.0.0"
