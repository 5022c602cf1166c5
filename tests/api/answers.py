"""Answers of all paths of the API, with data of every kind there: what `test_shapes` holds to the published shapes."""

import time
from collections import defaultdict
from typing import Any

import httpx

from tests.api.conftest import API, one_step
from tests.api.target import Target

Place = tuple[str, str, int]
"""Method, path as the document has it, status."""


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

    def silent(self, method: str, path: str, ids: dict[str, Any]) -> None:
        """A call that is answered with nothing."""
        answer = self._client.request(method, path.format(**ids))
        assert (answer.status_code, answer.content) == (204, b""), (method, path, answer.text[:500])


def collect(client: httpx.Client, target: Target) -> dict[Place, list[Any]]:
    """Call everything."""
    call = Calls(client)
    name = f"shape_{time.monotonic_ns()}"
    runs = _make_runs(call, target, name)
    _import_traces(call, name)
    _make_accounts(call)
    _make_nodes(call, name)
    _make_limits(call, name)
    _make_variables(call, name)
    _make_triggers(call, name)
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
        "parent": one_step(
            f"{name}_parent", "flow.foreach", {"items": [1, 2], "workflow": f"{name}_each", "on_item_error": "continue"}
        ),
        "rescued": {**one_step(f"{name}_rescued"), "policies": {"fallback_workflow": f"{name}_parent"}},
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


def _make_nodes(call: Calls, name: str) -> None:
    """Two arms, and a route between them that is changed and changed back."""
    node = {"name": f"{name}.charge", "version": "1.0.0", "base": "transform.map", "with": {"value": "{{ input.n }}"}}
    full = {**node, "label": "one", "title": "Charge", "effect": "pure", "output": "{{ output }}"}
    call("POST", f"{API}/nodes", json=full)
    call("POST", f"{API}/nodes", json=full)
    ids = {"name": node["name"], "version": "2.0.0"}
    call("POST", f"{API}/nodes", json={**node, "version": "2.0.0", "label": "two", "status": "draft"})
    for _ in range(2):
        call("POST", API + "/nodes/{name}/versions/{version}/promote", ids)
    arms = [{"version": "one", "weight": 90, "fallback": "two"}, {"version": "two", "weight": 10, "timeout": "5s"}]
    arms[0]["retry"] = {"max_attempts": 2}
    route = {
        "arms": arms,
        "rules": [{"when": "context.locale == 'de'", "weights": {"two": 1}}],
        "breaker": {"min_calls": 10, "failure_rate": 0.3, "window": "30s", "cooldown": "1s"},
        "goal": {"cost": 1},
        "floor": 0.05,
    }
    call("PUT", API + "/nodes/{name}/route", ids, json={"arms": [{"version": "1.0.0"}]})
    call("GET", API + "/nodes/{name}/route", ids)
    call("PUT", API + "/nodes/{name}/route", ids, json={**route, "revision": 1})
    call("GET", API + "/nodes/{name}/route", ids)
    spec = one_step(f"{name}_routed", ids["name"], {"n": 1}, cache={"ttl": "1h"})
    call("POST", f"{API}/workflows", json=spec)
    for _ in range(2):
        flow = {"workflow_id": spec["name"]}
        one = {"unit_key": "one"}  # drawn alike both times, so that the second finds what the first has cached
        run = call("POST", API + "/workflows/{workflow_id}/execute", flow, params={"wait": 20}, json=one)
        call("GET", API + "/runs/{run_id}", {"run_id": run["id"]})
    call("GET", f"{API}/cache")
    call("DELETE", f"{API}/cache", params={"workflow": spec["name"]})
    call("POST", API + "/nodes/{name}/route/revert", ids, json={"revision": 1})
    call("GET", API + "/nodes/{name}/route", ids)
    call("GET", API + "/nodes/{name}/route/revisions", ids)
    call("GET", API + "/nodes/{name}/route/revisions", ids, params={"limit": 1})
    call.silent("DELETE", API + "/nodes/{name}/route", ids)
    call("GET", API + "/nodes/{name}/route/revisions", ids, params={"limit": 1})
    call("POST", API + "/nodes/{name}/versions/{version}/deprecate", ids)


def _make_limits(call: Calls, name: str) -> None:
    """A node, a workflow and a step with limits, and runs that wait for them."""
    ids = {"name": f"{name}.charge"}
    call("PUT", API + "/nodes/{name}/limits", ids, json={"rate": {"calls": 5, "per": "1s"}})
    call("PUT", API + "/nodes/{name}/limits", ids, json={"concurrency": 2, "rate": {"calls": 5, "burst": 3}})
    call("GET", API + "/nodes/{name}/limits", ids)
    limited = {
        **one_step(
            f"{name}_limited", "flow.wait", {"event": f"{name}.go"}, limit={"concurrency": 1, "key": "{{ input.x }}"}
        ),
        "policies": {"concurrency": 2},
    }
    call("POST", f"{API}/workflows", json=limited)
    for x in (1, 1, 1):
        body = {"input": {"x": x}}
        run = call("POST", API + "/workflows/{workflow_id}/execute", {"workflow_id": limited["name"]}, json=body)
    deadline = time.monotonic() + 10
    while {"workflow", "step"} - {one["kind"] for one in call("GET", f"{API}/limits")["items"] if one["waiting"]}:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    call("GET", API + "/runs/{run_id}", {"run_id": run["id"]})
    call.silent("DELETE", API + "/nodes/{name}/limits", ids)


def _make_variables(call: Calls, name: str) -> None:
    path = API + "/variables/{name}"
    call("PUT", path, {"name": name}, json={"value": {"a": [1]}})
    call("PUT", path, {"name": name}, json={"value": None, "scope": "workflow", "workflow": "any", "ttl": "1h"})
    call("PUT", path, {"name": name}, json={"value": "x", "scope": "session", "session": "s-1"})
    call("GET", f"{API}/variables")
    call("GET", f"{API}/variables", params={"limit": 1})
    call("GET", f"{API}/variables", params={"scope": "session", "session": "s-1"})
    call.silent("DELETE", path, {"name": name})


def _make_triggers(call: Calls, name: str) -> None:
    """One of each kind, beside the spec and in it."""
    flow = f"{name}_hook"
    call("POST", f"{API}/workflows", json=one_step(flow, with_={"value": 1}))
    methods = ["DELETE", "GET", "PATCH", "POST", "PUT"]
    configs: list[dict[str, Any]] = [
        {"type": "cron", "name": "nightly", "schedule": "0 3 * * *", "timezone": "Europe/Berlin", "input": {"x": 1}},
        {"type": "webhook", "path": f"{name}/later", "methods": methods, "request": True},
        {"type": "webhook", "path": f"{name}/now", "methods": methods, "answer": "sync", "wait": "20s"},
        {"type": "event", "event": f"{name}.paid", "match": "event.n > 1", "input": {"x": "{{ event.n }}"}},
        {"type": "manual", "input": {"x": 1}},
    ]
    made = [call("POST", f"{API}/triggers", json={"workflow": flow, **config})["id"] for config in configs]
    cron, event = {"trigger_id": made[0]}, {"trigger_id": made[3]}
    one = API + "/triggers/{trigger_id}"
    call("GET", one + "/preview", cron)
    call("GET", one + "/preview", cron, params={"count": 1})
    for act in ("pause", "resume"):
        call("POST", f"{one}/{act}", cron)
        call("GET", one, cron)
    call("POST", one + "/fire", cron, json={})
    call("POST", one + "/fire", {"trigger_id": made[4]}, json={"input": {"x": 2}})
    sent = {"name": f"{name}.paid", "payload": {"n": 2}, "dedupe_key": name}
    assert call("POST", f"{API}/events", json=sent)["started"]
    assert call("POST", f"{API}/events", json=sent)["duplicate"]
    call("POST", f"{API}/events", json={"name": f"{name}.go"})
    call("GET", f"{API}/events", params={"limit": 1})
    call("GET", f"{API}/events", params={"name": f"{name}.paid"})
    for found in (cron, event):
        call("GET", one + "/firings", found)
    call("GET", f"{API}/triggers", params={"workflow": flow})
    call("GET", f"{API}/triggers", params={"limit": 1, "type": "webhook"})
    for method in methods:
        for kind in ("later", "now"):
            body = {} if method == "GET" else {"json": {"x": 1}}
            call(method, API + "/webhooks/{path}", {"path": f"{name}/{kind}"}, **body)
    call("GET", one + "/firings", {"trigger_id": made[1]}, params={"limit": 1})
    call.silent("DELETE", one, cron)


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
    call("GET", f"{API}/workers")
    call("GET", "/healthz")
    call("GET", "/readyz")
