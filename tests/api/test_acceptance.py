"""The main job from end to end: a workflow that gets, maps, branches and posts, and all that can be read afterwards."""

from typing import Any

import httpx
import pytest
import yaml

from tests.api.conftest import create, execute, problem
from tests.api.target import Target


def four_steps(name: str, target: Target) -> dict[str, Any]:
    return {
        "name": name,
        "inputs": {"type": "object", "required": ["value"], "properties": {"value": {"type": "integer"}}},
        "steps": [
            {
                "id": "fetch",
                "node": "http.request",
                "with": {"url": f"{target.url}/data/{name}", "query": {"value": "{{ input.value }}"}},
            },
            {
                "id": "shape",
                "node": "transform.map",
                "with": {"value": {"twice": "{{ steps.fetch.output.body.value * 2 }}"}},
            },
            {"id": "large", "node": "flow.if", "with": {"condition": "{{ steps.shape.output.twice > 10 }}"}},
            {
                "id": "send",
                "node": "http.request",
                "when": "{{ steps.large.output.result }}",
                "with": {"url": f"{target.url}/sink/{name}", "method": "POST", "json": "{{ steps.shape.output }}"},
            },
        ],
        "outputs": {"twice": "{{ steps.shape.output.twice }}"},
    }


@pytest.mark.parametrize("form", ["json", "yaml"])
@pytest.mark.parametrize(("value", "sent"), [(21, True), (2, False)])
def test_four_steps(api: httpx.Client, target: Target, name: str, form: str, value: int, sent: bool) -> None:
    spec = four_steps(name, target)
    if form == "json":
        made = api.post("/workflows", json=spec)
    else:
        headers = {"Content-Type": "application/yaml"}
        made = api.post("/workflows", content=yaml.safe_dump(spec), headers=headers)
    assert made.status_code == 201, made.text
    assert made.json()["spec"]["steps"] == spec["steps"]

    run = execute(api, made.json()["id"], {"value": value})

    assert run["status"] == "completed", run
    assert run["outputs"] == {"twice": value * 2}
    statuses = {step["id"]: step["status"] for step in run["steps"]}
    wanted = "completed" if sent else "skipped"
    assert statuses == {"fetch": "completed", "shape": "completed", "large": "completed", "send": wanted}
    assert api.get(f"/runs/{run['id']}").json() == run

    got = target.to(f"/data/{name}")
    assert [(call.method, call.query) for call in got] == [("GET", {"value": [str(value)]})]
    posted = target.to(f"/sink/{name}")
    assert [(call.method, call.json) for call in posted] == ([("POST", {"twice": value * 2})] if sent else [])

    events = api.get(f"/runs/{run['id']}/events").json()["items"]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert (events[0]["type"], events[-1]["type"]) == ("run_created", "run_completed")

    traces = api.get("/traces", params={"run_id": run["id"]}).json()["items"]
    wanted_steps = ["fetch", "large", "send", "shape"] if sent else ["fetch", "large", "shape"]
    assert sorted(trace["step_id"] for trace in traces) == wanted_steps
    assert all(trace["status"] == "ok" and trace["attempt"] == 1 for trace in traces)


def test_validate_names_all_faults_at_once(api: httpx.Client, name: str) -> None:
    spec = {
        "name": name,
        "steps": [
            {"id": "a", "node": "transform.map", "with": {"value": "{{ steps.b.output }}"}},
            {"id": "b", "node": "transform.map", "with": {"value": "{{ steps.a.output }}"}},
            {"id": "slip", "node": "http.requst", "with": {"url": "http://example.com"}},
            {"id": "bare", "node": "http.request", "needs": ["slip"], "with": {}},
            {"id": "bad", "node": "transform.map", "needs": ["bare"], "with": {"value": "{{ 1 + }}"}},
            {"id": "lonely", "node": "transform.map", "with": {"value": 1}},
        ],
        "outputs": {"x": "{{ steps.bad.output }}"},
    }
    answer = api.post("/workflows/validate", json=spec)
    assert answer.status_code == 200
    assert answer.json()["valid"] is False
    faults = answer.json()["faults"]
    assert all({"path", "code", "message"} <= fault.keys() for fault in faults)
    found = {(fault["path"], fault["code"]) for fault in faults}
    assert ("$.steps[2].node", "unknown_node") in found
    assert ("$.steps[3].with.url", "missing_parameter") in found
    assert ("$.steps[4].with.value", "bad_expression") in found
    assert {"cycle", "orphan_step"} <= {code for _, code in found}
    slip = next(fault for fault in faults if fault["code"] == "unknown_node")
    assert slip["suggestion"] == "http.request"
    cycle = next(fault for fault in faults if fault["code"] == "cycle")
    assert "a" in cycle["message"]
    assert "b" in cycle["message"]
    orphan = next(fault for fault in faults if fault["code"] == "orphan_step")
    assert orphan["path"].startswith("$.steps[5]")

    refused = problem(api.post("/workflows", json=spec), 422)
    assert refused["faults"] == faults
    problem(api.get(f"/workflows/{name}"), 404)
    assert api.get("/workflows", params={"search": name}).json()["items"] == []


def test_a_valid_spec_has_no_faults_and_is_not_stored(api: httpx.Client, target: Target, name: str) -> None:
    answer = api.post("/workflows/validate", json=four_steps(name, target))
    assert answer.json() == {"valid": True, "faults": []}
    problem(api.get(f"/workflows/{name}"), 404)


def test_versions_and_publishing(api: httpx.Client, name: str) -> None:
    def spec(text: str) -> dict[str, Any]:
        return {
            "name": name,
            "steps": [{"id": "s", "node": "transform.map", "with": {"value": text}}],
            "outputs": {"text": "{{ steps.s.output }}"},
        }

    first = create(api, spec("one"))
    assert execute(api, name)["outputs"] == {"text": "one"}
    second = api.put(f"/workflows/{name}", json=spec("two"))
    assert (second.status_code, second.json()["version"]) == (200, 2)
    assert execute(api, name)["outputs"] == {"text": "two"}
    assert api.post(f"/workflows/{first['id']}/publish", json={"version": 1}).status_code == 200
    assert execute(api, name)["outputs"] == {"text": "one"}
    assert [one["version"] for one in api.get(f"/workflows/{name}/versions").json()["items"]] == [2, 1]
    assert api.delete(f"/workflows/{name}").status_code == 204
    problem(api.post(f"/workflows/{name}/execute", json={}), 404)


def test_a_name_that_looks_like_an_id(api: httpx.Client) -> None:
    looks = "deadbeef-dead-4eef-8ead-beefdeadbeef"
    create(api, {"name": looks, "steps": [{"id": "s", "node": "transform.map", "with": {"value": 1}}]})
    assert api.get(f"/workflows/{looks}").json()["name"] == looks
    assert execute(api, looks)["status"] == "completed"
