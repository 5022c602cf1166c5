"""Every answer has exactly the shape that the OpenAPI document gives for its path and status."""

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema_rs
import pytest

from tests.api.answers import Place, collect
from tests.api.conftest import API, create, execute, one_step
from tests.api.target import Target
from tests.server import RunningServer

NOT_JSON = {("GET", f"{API}/runs/{{run_id}}/stream", 200), ("GET", "/metrics", 200)}


@pytest.fixture(scope="module")
def document(server: RunningServer) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{server.url}{API}/openapi.json", trust_env=False).json()
    return found


@pytest.fixture(scope="module")
def answers(server: RunningServer, target: Target) -> dict[Place, list[Any]]:
    """Answers of all paths, with data of every kind there."""
    with server.client() as client:
        client.base_url = httpx.URL(server.url)
        return collect(client, target)


def documented(document: dict[str, Any]) -> dict[Place, dict[str, Any]]:
    """The content of each answer that is a success and has one."""
    return {
        (method.upper(), path, int(status)): response.get("content", {})
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        for status, response in operation["responses"].items()
        if status.startswith("2") and status != "204"
    }


def validator(document: dict[str, Any], schema: dict[str, Any]) -> Any:
    whole = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "components": document["components"],
        "allOf": [schema],
    }
    return jsonschema_rs.validator_for(whole, validate_formats=True, offline=True)


def faults(document: dict[str, Any], place: Place, answer: Any) -> list[str]:
    schema = documented(document)[place]["application/json"]["schema"]
    return [
        f"{' '.join(map(str, place))}: $.{'.'.join(map(str, one.instance_path))}: {one.message[:300]}"
        for one in validator(document, schema).iter_errors(answer)
    ]


def test_answers_have_the_published_shape(document: dict[str, Any], answers: dict[Place, list[Any]]) -> None:
    assert set(answers) <= set(documented(document))
    found = [one for place, all_ in answers.items() for answer in all_ for one in faults(document, place, answer)]
    assert not found, "\n".join(dict.fromkeys(found))


def checked_elsewhere(path: str) -> bool:
    """`test_operations` holds each of its own answers to the published shape."""
    if path == f"{API}/runs/bulk":
        return True
    return path.startswith(API + "/runs/{run_id}/") and path.rpartition("/")[2] not in ("events", "stream", "export")


def test_every_published_shape_is_checked(document: dict[str, Any], answers: dict[Place, list[Any]]) -> None:
    missing = {place for place in set(documented(document)) - set(answers) if not checked_elsewhere(place[1])}
    assert missing == NOT_JSON


def test_the_data_has_every_kind(answers: dict[Place, list[Any]]) -> None:
    """What is optional is there at least once: else the shapes of it would be checked by nobody."""
    runs = answers["GET", API + "/runs/{run_id}", 200]
    steps = [step for run in runs for step in run["steps"]]
    events = [one for page in answers["GET", API + "/runs/{run_id}/events", 200] for one in page["items"]]
    traces = [one for page in answers["GET", f"{API}/traces", 200] for one in page["items"]]
    spec_faults = [one for check in answers["POST", f"{API}/workflows/validate", 200] for one in check["faults"]]
    assert {"completed", "failed", "cancelled", "waiting"} <= {run["status"] for run in runs}
    assert {"error", "cancel_reason", "unit_key", "fallback_run"} <= {key for run in runs for key in run}
    assert {"output", "error", "reason", "items", "waiting_for", "children"} <= {key for step in steps for key in step}
    assert {"delay", "retry", "concurrency_limit"} <= {
        step["waiting_for"]["reason"] for step in steps if "waiting_for" in step
    }
    assert {"step_id", "item", "attempt"} <= {key for event in events for key in event}
    assert {"item", "error_class", "error_fingerprint"} <= {key for trace in traces for key in trace}
    assert {"arm", "cache_hit"} <= {key for step in steps for key in step}
    assert any("suggestion" in one for one in spec_faults)
    routes = answers["GET", API + "/nodes/{name}/route", 200]
    arms = [arm for route in routes for arm in route["arms"]]
    assert {"label", "fallback", "timeout", "retry", "breaker"} <= {key for arm in arms for key in arm}
    assert any("reverted_to" in route and "breaker" not in route for route in routes)
    uses = [one for page in answers["GET", f"{API}/limits", 200] for one in page["items"]]
    assert {("workflow", False), ("step", True)} <= {(one["kind"], one["keyed"]) for one in uses}
    assert any(page["nodes"] for page in answers["GET", f"{API}/cache", 200])
    triggers = [one for page in answers["GET", f"{API}/triggers", 200] for one in page["items"]]
    assert {one["type"] for one in triggers} == {"cron", "webhook", "event", "manual"}
    assert any(page["next_cursor"] for page in answers["GET", f"{API}/runs", 200])
    assert any(insight["items"] for insight in answers["GET", f"{API}/insights/failures", 200])
    assert any(insight["series"] for insight in answers["GET", f"{API}/insights/latency", 200])


def test_published_shapes_take_no_other_fields(document: dict[str, Any]) -> None:
    """Objects whose fields are named have no others, at any depth: a new field must be published to be answered."""
    seen: set[str] = set()

    def objects(schema: Any) -> Iterator[dict[str, Any]]:
        if isinstance(schema, list):
            for one in schema:
                yield from objects(one)
        elif isinstance(schema, dict):
            ref = schema.get("$ref")
            if isinstance(ref, str) and ref not in seen:
                seen.add(ref)
                place: Any = document
                for part in ref[2:].split("/"):
                    place = place[part]
                yield from objects(place)
            if isinstance(schema.get("properties"), dict):
                yield schema
            for key, one in schema.items():
                if key not in ("examples", "example", "default"):
                    yield from objects(one)

    shapes = [one for content in documented(document).values() for one in objects(content)]
    assert len(shapes) > 30
    assert not [json.dumps(one)[:200] for one in shapes if one.get("additionalProperties") is not False]


def test_absent_is_not_null(document: dict[str, Any], answers: dict[Place, list[Any]]) -> None:
    """The check itself can fail: by a field too many, one too few, and a null where nothing is said of one."""
    place = ("GET", API + "/runs/{run_id}", 200)
    run = next(one for one in answers[place] if "error" not in one)
    assert not faults(document, place, run)
    assert faults(document, place, {**run, "new_field": 1})
    assert faults(document, place, {key: value for key, value in run.items() if key != "context"})
    assert faults(document, place, {**run, "error": None})
    assert faults(document, place, {**run, "created_at": "yesterday"})
    spec_place = ("GET", API + "/workflows/{workflow_id}", 200)
    workflow = answers[spec_place][0]
    assert faults(document, spec_place, {**workflow, "spec": {**workflow["spec"], "stepps": []}})


def test_an_execution_that_goes_on_has_the_shape_too(api: httpx.Client, document: dict[str, Any], name: str) -> None:
    """At each moment of its life."""
    create(api, one_step(name, "flow.delay", {"seconds": 0.2}, foreach=[1, 2], concurrency=1))
    run = execute(api, name, wait=0)
    found = faults(document, ("POST", API + "/workflows/{workflow_id}/execute", 202), run)
    deadline = time.monotonic() + 15
    while run["status"] not in ("completed", "failed") and time.monotonic() < deadline:
        run = api.get(f"/runs/{run['id']}").json()
        found += faults(document, ("GET", API + "/runs/{run_id}", 200), run)
        time.sleep(0.05)
    assert run["status"] == "completed"
    assert not found
