"""Every answer has exactly the shape that the OpenAPI document gives for its path and status."""

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema_rs
import pytest

from tests.api.conftest import API, create, execute, one_step
from tests.api.target import Target
from tests.server import RunningServer

Place = tuple[str, str, int]

# It takes a `kill -9` to make an outcome unknown: tests/api/test_runs.py does. The answer is a run, as elsewhere here.
_RESOLVE = f"{API}/runs/{{run_id}}/steps/{{step_id}}/resolve"
NOT_REACHED = {("POST", _RESOLVE, 200), ("POST", _RESOLVE, 202)}
NOT_JSON = {("GET", f"{API}/runs/{{run_id}}/stream", 200), ("GET", "/metrics", 200)}


class Calls:
    """Makes calls and keeps their answers by the path as the document has it."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self.answers: dict[Place, list[Any]] = defaultdict(list)

    def __call__(self, method: str, path: str, ids: dict[str, Any] | None = None, **options: Any) -> Any:
        answer = self._client.request(method, path.format(**(ids or {})), **options)
        assert answer.is_success, (method, path, answer.text[:500])
        assert answer.headers["content-type"] == "application/json"
        self.answers[method, path, answer.status_code].append(answer.json())
        return answer.json()


@pytest.fixture(scope="module")
def document(server: RunningServer) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{server.url}{API}/openapi.json", trust_env=False).json()
    return found


@pytest.fixture(scope="module")
def answers(server: RunningServer, target: Target) -> dict[Place, list[Any]]:
    """Answers of all paths, with data of every kind there."""
    with server.client() as client:
        client.base_url = httpx.URL(server.url)
        call = Calls(client)
        name = f"shape_{time.monotonic_ns()}"
        runs = _make_runs(call, target, name)
        _import_traces(call, name)
        _make_accounts(call)
        _read_workflows(call, name)
        _read_runs(call, name, runs)
        _read_the_rest(call, name)
        return dict(call.answers)


def _make_runs(call: Calls, target: Target, name: str) -> dict[str, str]:
    """Runs of every kind, by what is special about them."""
    full = {
        "name": f"{name}_full",
        "description": "All that a spec can say.",
        "inputs": {"type": "object", "properties": {"x": {"type": "integer"}}},
        "steps": [
            {"id": "map", "node": "transform.map", "with": {"value": "{{ input.x }}"}, "retry": {"max_attempts": 2}},
            {"id": "never", "node": "transform.map", "with": {"value": 1}, "when": "{{ input.x > 100 }}"},
            {"id": "each", "node": "transform.map", "with": {"value": "{{ item }}"}, "foreach": [1, 2, 3]},
            {
                "id": "call",
                "node": "http.request",
                "with": {"url": f"{target.url}/echo/503"},
                "retry": {"max_attempts": 2, "initial": "10ms"},
                "on_error": "continue",
            },
        ],
        "outputs": {"result": "{{ steps.map.output }}"},
        "policies": {"max_duration": "1m"},
    }
    retried = one_step(
        f"{name}_retry",
        "http.request",
        {"url": f"{target.url}/echo/503"},
        retry={"max_attempts": 9, "initial": "10m", "max": "10m"},
    )
    specs = {
        "full": full,
        "failed": one_step(f"{name}_failed"),
        "request_failed": one_step(f"{name}_request", "http.request", {"url": f"{target.url}/echo/404"}),
        "foreach": one_step(f"{name}_each", with_={"value": "{{ 6 / item }}"}, foreach="{{ input.xs }}"),
        "late": {**one_step(f"{name}_late", "flow.delay", {"seconds": 60}), "policies": {"max_duration": "100ms"}},
        "waiting": one_step(f"{name}_wait", "flow.delay", {"seconds": 600}),
        "waiting_each": one_step(f"{name}_waits", "flow.delay", {"seconds": 600}, foreach=[1, 2]),
        "retried": retried,
        "cancelled": one_step(f"{name}_cancel", "flow.delay", {"seconds": 600}),
    }
    inputs: dict[str, Any] = {"full": {"x": 1}, "foreach": {"xs": [1, 2, 0]}}
    more = {"context": {"locale": "de", "vip": True}, "unit_key": "customer-1"}
    runs = {}
    for kind, spec in specs.items():
        call("POST", f"{API}/workflows", json=spec)
        ends = kind not in ("waiting", "waiting_each", "retried", "cancelled")
        options = {"params": {"wait": 20 if ends else 0.3}, "json": {"input": inputs.get(kind, {}), **more}}
        run = call("POST", API + "/workflows/{workflow_id}/execute", {"workflow_id": spec["name"]}, **options)
        runs[kind] = run["id"]
    call("POST", API + "/runs/{run_id}/cancel", {"run_id": runs["cancelled"]}, json={"reason": "not needed"})
    return runs


def _import_traces(call: Calls, name: str) -> None:
    row = {"run_id": "r", "step_id": "s", "node": name, "status": "cancelled", "start": "2026-03-01T02:00:00Z"}
    rows = [
        {**row, "latency_ms": 1},
        {**row, "latency_ms": 1, "attempt": 2, "features": {"amount": 1200, "currency": "EUR"}, "item": 3},
        {**row, "latency_ms": -1},
    ]
    call("POST", f"{API}/traces", json=rows)


def _make_accounts(call: Calls) -> None:
    call("POST", f"{API}/secrets", json={"name": "SHAPE_TOKEN", "value": "not-shown"})
    call("POST", f"{API}/api-keys", json={"name": "shape", "role": "viewer"})
    call("GET", f"{API}/secrets")
    call("GET", f"{API}/api-keys")
    call("GET", f"{API}/audit", params={"limit": 100})
    call("GET", f"{API}/audit", params={"limit": 1})


def _read_workflows(call: Calls, name: str) -> None:
    ids = {"workflow_id": f"{name}_failed"}
    spec = one_step(f"{name}_failed", "flow.delay", {"seconds": 1})
    call("PUT", API + "/workflows/{workflow_id}", ids, json=spec)
    call("POST", API + "/workflows/{workflow_id}/publish", ids, json={"version": 1})
    call("GET", API + "/workflows/{workflow_id}", ids)
    call("GET", API + "/workflows/{workflow_id}", ids, params={"version": 2})
    call("GET", API + "/workflows/{workflow_id}/versions", ids)
    call("GET", f"{API}/workflows", params={"limit": 100})
    call("GET", f"{API}/workflows", params={"limit": 1})
    call("POST", f"{API}/workflows/validate", json=spec)
    call("POST", f"{API}/workflows/validate", json=one_step("bad", "transform.mapp", retry={"max": "never"}))
    call("POST", f"{API}/workflows/validate", json=one_step("bad", "transform.mapp"))


def _read_runs(call: Calls, name: str, runs: dict[str, str]) -> None:
    for run_id in runs.values():
        ids = {"run_id": run_id}
        call("GET", API + "/runs/{run_id}", ids)
        call("GET", API + "/runs/{run_id}/events", ids)
        call("GET", API + "/runs/{run_id}/events", ids, params={"limit": 1})
        call("GET", API + "/runs/{run_id}/export", ids)
    call("GET", f"{API}/runs", params={"search": name, "limit": 100})
    call("GET", f"{API}/runs", params={"limit": 1})


def _read_the_rest(call: Calls, name: str) -> None:
    nodes = call("GET", f"{API}/nodes")["items"]
    assert len(nodes) > 3
    for node in nodes:
        call("GET", API + "/nodes/{name}", node)
        call("GET", API + "/nodes/{name}/versions", node)
        call("GET", API + "/nodes/{name}/versions/{version}", node)
    call("GET", f"{API}/traces", params={"limit": 100})
    call("GET", f"{API}/traces", params={"limit": 1})
    call("GET", f"{API}/traces", params={"node": name})
    window = {"from": "2026-02-28T00:00:00Z", "to": "2026-03-03T00:00:00Z"}  # only cancelled attempts
    for kind in ("reliability", "failures", "latency", "cost", "trends"):
        call("GET", f"{API}/insights/{kind}")
        call("GET", f"{API}/insights/{kind}", params=window)
    for by in ("version", "arm"):
        call("GET", f"{API}/insights/latency", params={"by": by})
    for by in ("arm", "workflow"):
        call("GET", f"{API}/insights/cost", params={"by": by})
    call("GET", f"{API}/schemas/workflow")
    call("GET", "/healthz")
    call("GET", "/readyz")


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


def test_every_published_shape_is_checked(document: dict[str, Any], answers: dict[Place, list[Any]]) -> None:
    assert set(documented(document)) - set(answers) == NOT_REACHED | NOT_JSON


def test_the_data_has_every_kind(answers: dict[Place, list[Any]]) -> None:
    """What is optional is there at least once: else the shapes of it would be checked by nobody."""
    runs = answers["GET", API + "/runs/{run_id}", 200]
    steps = [step for run in runs for step in run["steps"]]
    events = [one for page in answers["GET", API + "/runs/{run_id}/events", 200] for one in page["items"]]
    traces = [one for page in answers["GET", f"{API}/traces", 200] for one in page["items"]]
    spec_faults = [one for check in answers["POST", f"{API}/workflows/validate", 200] for one in check["faults"]]
    assert {"completed", "failed", "cancelled", "waiting"} <= {run["status"] for run in runs}
    assert {"error", "cancel_reason", "unit_key"} <= {key for run in runs for key in run}
    assert {"output", "error", "reason", "items", "waiting_for"} <= {key for step in steps for key in step}
    assert {"delay", "retry"} <= {step["waiting_for"]["reason"] for step in steps if "waiting_for" in step}
    assert {"step_id", "item", "attempt"} <= {key for event in events for key in event}
    assert {"item", "error_class", "error_fingerprint"} <= {key for trace in traces for key in trace}
    assert any("suggestion" in one for one in spec_faults)
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
