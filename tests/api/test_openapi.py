"""The OpenAPI document says what the service does, and nothing sent by its rules breaks the service."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

from tests.api.conftest import API, create, execute, one_step
from tests.server import RunningServer

METHODS = ("get", "post", "put", "patch", "delete")
# Sent with one set of data: a stream of a run that goes on would not end, and new keys would pile up.
EXAMPLES_EACH = 20


@pytest.fixture(scope="module")
def document(server: RunningServer) -> dict[str, Any]:
    answer = httpx.get(f"{server.url}{API}/openapi.json", trust_env=False)
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if method in METHODS:
                yield f"{method.upper()} {path}", operation


def test_every_operation_is_described(document: dict[str, Any]) -> None:
    found = dict(operations(document))
    assert len(found) > 30
    open_to_all = {"GET /healthz", "GET /readyz", "GET /metrics", f"GET {API}/schemas/workflow"}
    for name, operation in found.items():
        assert operation.get("summary"), name
        assert (name in open_to_all) == ("security" not in operation), name
        if name not in open_to_all:
            assert "application/problem+json" in operation["responses"]["401"]["content"], name
    schemes = document["components"]["securitySchemes"]
    assert [(one["type"], one["scheme"]) for one in schemes.values()] == [("http", "bearer")]


def test_bodies_have_schemas_and_examples(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        content = operation.get("requestBody", {}).get("content", {})
        shown = content.get("application/json")
        if shown is None:
            assert not content, name
            continue
        assert "schema" in shown, name
        assert "example" in shown or "examples" in str(shown["schema"]), name


def test_the_document_is_sound(document: dict[str, Any]) -> None:
    """Every reference leads somewhere."""

    def refs(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                yield value["$ref"]
            for one in value.values():
                yield from refs(one)
        elif isinstance(value, list):
            for one in value:
                yield from refs(one)

    for ref in refs(document):
        assert ref.startswith("#/"), ref
        place: Any = document
        for part in ref[2:].split("/"):
            place = place[part.replace("~1", "/").replace("~0", "~")]


def test_no_request_breaks_the_service(api: httpx.Client, server: RunningServer, document: dict[str, Any]) -> None:
    """schemathesis over every operation, with data that fits and data that does not."""
    create(api, one_step("greet"))
    execute(api, "greet", {"x": 1})
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=server.url)
    headers = {"Authorization": f"Bearer {server.key}"}
    checks = [not_a_server_error, status_code_conformance, content_type_conformance]
    tried = 0
    for found in schema.get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=EXAMPLES_EACH,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def send(case: Any) -> None:
            nonlocal tried
            tried += 1
            answer = case.call(headers=headers, timeout=20)
            case.validate_response(answer, checks=checks, headers=headers)

        for mode in schemathesis.GenerationMode:
            try:
                given(case=operation.as_strategy(generation_mode=mode))(send)()
            except Unsatisfiable:
                # What takes no data cannot be sent wrong data.
                assert mode is schemathesis.GenerationMode.NEGATIVE, operation.label
    assert tried > 200
    assert "request failed" not in server.log
