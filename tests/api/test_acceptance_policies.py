"""What a workflow may ask of the engine besides its steps, over HTTP: stand-ins, budgets, limits, cache, variables."""

import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import httpx
import pytest

from tests.api.conftest import create, execute, finished, one_step
from tests.api.eventually import traces, until
from tests.api.target import Target, target_server
from tests.server import RunningServer, running_server


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """The client of a language model stays loaded, and is not to stand beside tests that measure pauses."""
    with running_server() as running:
        yield running


def status_of(api: httpx.Client, run_id: str) -> str:
    return str(api.get(f"/runs/{run_id}").json()["status"])


def waiting_for(run: dict[str, Any], step_id: str = "only") -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in run["steps"] if one["id"] == step_id).get("waiting_for", {})
    return found


def test_another_workflow_stands_in_for_one_that_fails(api: httpx.Client, name: str, target: Target) -> None:
    by_hand = one_step(f"{name}_by_hand", with_={"value": "{{ input.amount }} by hand"})
    create(api, by_hand)
    call = one_step(name, "http.request", {"url": f"{target.url}/echo/503"})
    create(api, {**call, "policies": {"fallback_workflow": by_hand["name"]}})
    run = execute(api, name, {"amount": 5})
    assert (run["status"], run["outputs"]) == ("completed", {"result": "5 by hand"})
    assert (run["error"]["class"], run["steps"][0]["status"]) == ("upstream_5xx", "failed")
    other = api.get(f"/runs/{run['fallback_run']}").json()
    assert other["parent"] == {"run_id": run["id"], "step_id": None}
    assert other["context"]["fallback_error"] == "upstream_5xx"


def test_a_run_ends_when_its_budget_is_spent(api: httpx.Client, name: str) -> None:
    """Each question costs two tenths of a dollar, half a dollar is there for five of them."""
    answer = {
        "id": "c", "object": "chat.completion", "created": 1, "model": "m", "usage": {
            "prompt_tokens": 100_000, "completion_tokens": 100_000, "total_tokens": 200_000},
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "yes"}}],
    }  # fmt: skip
    with target_server() as model:
        model.answers["/chat/completions"] = answer
        with_ = {
            "provider": "openai",
            "model": "m",
            "prompt": "{{ 'Is ' + string(item) + ' a number?' }}",
            "base_url": model.url,
            "api_key": "{{ secrets.MODEL_KEY }}",
            "price": {"input": 1, "output": 1},
        }
        api.post("/secrets", json={"name": "MODEL_KEY", "value": "sk-not-a-real-key"})
        spec = one_step(name, "ai.chat", with_, foreach=[1, 2, 3, 4, 5], concurrency=1)
        create(api, {**spec, "policies": {"cost_budget_usd": 0.5}})
        run = execute(api, name)
    assert (run["status"], run["error"]["class"]) == ("failed", "policy"), run
    assert "0.5" in run["error"]["message"]
    assert round(run["cost_usd"], 6) == 0.6
    assert len(model.calls) == 3


def test_a_paused_run_starts_nothing_and_its_pause_is_not_held_against_it(api: httpx.Client, name: str) -> None:
    steps = [
        {"id": "nap", "node": "flow.delay", "with": {"seconds": 0.3}},
        {"id": "after", "node": "transform.map", "needs": ["nap"], "with": {"value": 1}},
    ]
    create(api, {"name": name, "steps": steps, "policies": {"max_duration": "1s"}})
    run_id = execute(api, name, wait=0)["id"]
    assert api.post(f"/runs/{run_id}/pause", json={"reason": "lunch"}).json()["status"] == "paused"
    time.sleep(1.2)
    run = api.get(f"/runs/{run_id}").json()
    assert (run["status"], run["pause_reason"], waiting_for(run, "after")["reason"]) == ("paused", "lunch", "paused")
    api.post(f"/runs/{run_id}/resume")
    assert finished(api, run_id)["status"] == "completed"


def test_equal_calls_are_made_once(api: httpx.Client, name: str) -> None:
    with target_server() as target:
        target.slow = 0.2
        with_ = {"url": f"{target.url}/charge", "method": "PUT", "json": {"order": "{{ input.order }}"}}
        create(api, one_step(name, "http.request", with_, cache={"ttl": "1h"}))
        with ThreadPoolExecutor(4) as pool:
            runs = list(pool.map(lambda _: execute(api, name, {"order": 7}), range(4)))
        runs.append(execute(api, name, {"order": 7}))
        assert [run["outputs"]["result"]["body"]["paid"] for run in runs] == [{"order": 7}] * 5
        assert len(target.calls) == 1
        assert sum("cache_hit" in run["steps"][0] for run in runs) == 4
        rows = traces(api, 5, workflow=name)
        assert sorted(row["cache_hit"] for row in rows) == [False, True, True, True, True]
        assert len({row["inputs_hash"] for row in rows}) == 1
        assert api.delete("/cache", params={"workflow": name}).json() == {"removed": 1}
        assert "cache_hit" not in execute(api, name, {"order": 7})["steps"][0]
        assert len(target.calls) == 2


def test_calls_start_no_faster_than_the_rate_allows(api: httpx.Client, name: str) -> None:
    """Of a step over all runs, and of a node over all workflows."""
    with target_server() as target:
        node = f"{name}.limited"
        binding = {"name": node, "version": "1.0.0", "base": "http.request", "with": {"url": f"{target.url}/limited"}}
        assert api.post("/nodes", json=binding).status_code == 201
        put = api.put(f"/nodes/{node}/limits", json={"rate": {"calls": 10, "per": "1s", "burst": 2}})
        assert put.json()["rate"] == {"calls": 10, "per": "1s", "burst": 2}
        create(api, one_step(name, node, {"x": 1}))
        runs = [execute(api, name, wait=0)["id"] for _ in range(8)]
        waiting = until(
            lambda: [run for one in runs if waiting_for(run := api.get(f"/runs/{one}").json()).get("reason")], 2
        )
        assert waiting_for(waiting[0])["reason"] == "rate_limit"
        assert node in waiting_for(waiting[0])["detail"]
        assert all(finished(api, one)["status"] == "completed" for one in runs)
        at = [call.at for call in target.calls]
        assert len(at) == 8
        # Two at once, then ten a second: the last one comes after six tenths.
        assert 0.5 < at[-1] - at[0] < 2


def test_runs_of_a_workflow_wait_for_room(api: httpx.Client, name: str) -> None:
    wait = one_step(name, "flow.wait", {"event": f"{name}.go", "match": "event.n == input.n"})
    create(api, {**wait, "policies": {"concurrency": {"max": 1, "key": "{{ input.customer }}"}}})
    runs = [execute(api, name, {"customer": who, "n": n}, wait=0)["id"] for n, who in enumerate("aab")]
    until(lambda: [status_of(api, run) for run in runs] == ["waiting", "queued", "waiting"])
    held = api.get(f"/runs/{runs[1]}").json()
    assert waiting_for(held)["reason"] == "concurrency_limit"
    uses = [one for one in api.get("/limits").json()["items"] if one["workflow"] == name]
    assert sorted((one["keyed"], one["max"], one["in_use"], one["waiting"]) for one in uses) == [
        (True, 1, 1, 0),
        (True, 1, 1, 1),
    ]
    for n, run_id in enumerate(runs):
        until(lambda run_id=run_id: status_of(api, run_id) == "waiting")
        assert api.post("/events", json={"name": f"{name}.go", "payload": {"n": n}}).json()["woken"] == 1
        assert finished(api, run_id)["status"] == "completed"


def test_runs_share_variables(api: httpx.Client, name: str) -> None:
    steps = [
        {
            "id": "add",
            "node": "vars.set",
            "with": {"name": "total", "value": "{{ vars.total + 5 }}", "scope": "workflow"},
        },
        {
            "id": "see",
            "node": "transform.map",
            "needs": ["add"],
            "with": {"value": "{{ vars.total }} {{ vars.region }}"},
        },
    ]
    variables = {"total": {"value": 0, "scope": "workflow"}, "region": "none"}
    create(api, {"name": name, "variables": variables, "steps": steps, "outputs": {"now": "{{ steps.see.output }}"}})
    seen = [execute(api, name)["outputs"]["now"] for _ in range(2)]
    assert seen == ["5 none", "10 none"]
    mine = api.get("/variables", params={"scope": "workflow", "workflow": name}).json()["items"]
    assert [(one["name"], one["value"]) for one in mine] == [("total", 10)]
    changed = api.put("/variables/total", json={"value": 100, "scope": "workflow", "workflow": name})
    assert changed.status_code == 200
    assert execute(api, name)["outputs"]["now"] == "105 none"


def test_a_signed_request_starts_a_run(api: httpx.Client, server: RunningServer, name: str) -> None:
    secret = f"SIGNS_{name.upper()}"
    api.post("/secrets", json={"name": secret, "value": "a-shared-secret"})
    hook = {"type": "webhook", "path": f"pay/{name}", "secret": secret, "answer": "sync", "request": True}
    value = {"order": "{{ input.order }}", "by": "{{ input._request.query.by }}"}
    create(api, {**one_step(name, with_={"value": value}), "triggers": [hook]})
    body = json.dumps({"order": 17}).encode()
    sign = "sha256=" + hmac.new(b"a-shared-secret", body, hashlib.sha256).hexdigest()
    url = f"{server.url}/webhooks/pay/{name}?by=shop"
    good = httpx.post(url, content=body, headers={"X-Reflux-Signature": sign}, trust_env=False)
    assert (good.status_code, good.json()) == (200, {"result": {"order": 17, "by": "shop"}})
    run = api.get(f"/runs/{good.headers['reflux-run-id']}").json()
    assert run["created_by"].startswith("trigger:")
    for headers in ({}, {"X-Reflux-Signature": sign[:-1] + "x"}, {"X-Reflux-Signature": "sha256="}):
        assert httpx.post(url, content=body, headers=headers, trust_env=False).status_code == 401
    assert httpx.post(url, content=b"{}", headers={"X-Reflux-Signature": sign}, trust_env=False).status_code == 401


def test_the_clock_and_events_start_runs(api: httpx.Client, name: str) -> None:
    triggers = [
        {"type": "cron", "name": "nightly", "schedule": "30 2 * * *", "timezone": "Europe/Berlin", "input": {"x": 1}},
        {"type": "event", "name": f"{name}.paid", "match": "event.x > 1", "correlation": "event.customer"},
    ]
    create(api, {**one_step(name), "triggers": triggers})
    by_kind = {one["type"]: one for one in api.get("/triggers", params={"workflow": name}).json()["items"]}
    nightly = by_kind["cron"]["id"]
    times = api.get(f"/triggers/{nightly}/preview", params={"count": 400}).status_code
    assert times == 422
    shown = api.get(f"/triggers/{nightly}/preview", params={"count": 100}).json()["times"]
    hours = {datetime.fromisoformat(one).hour for one in shown}
    assert hours <= {0, 1}, "half past two in Berlin is half past one or half past midnight in UTC"
    assert by_kind["cron"]["next_at"] == shown[0]
    fired = api.post(f"/triggers/{nightly}/fire", json={}).json()
    assert finished(api, fired["run_id"])["outputs"] == {"result": 1}
    started = [
        api.post("/events", json={"name": f"{name}.paid", "payload": {"x": x, "customer": "ada"}}).json()["started"]
        for x in (1, 2)
    ]
    assert [len(one) for one in started] == [0, 1]
    run = finished(api, started[1][0])
    assert (run["outputs"], run["unit_key"]) == ({"result": 2}, "ada")
