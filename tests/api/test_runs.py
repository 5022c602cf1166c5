"""Runs: listed, paged, watched, exported, cancelled."""

import csv
import io
import json
import threading
import time
from typing import Any

import httpx
import pytest

from tests.api.conftest import create, execute, finished, one_step, problem
from tests.api.target import Target
from tests.server import RunningServer, running_server


def hanging(name: str, target: Target, **more: Any) -> dict[str, Any]:
    return one_step(name, "http.request", {"url": f"{target.url}/hang/{name}", **more})


def read_stream(api: httpx.Client, run_id: str, after: int | None = None, most: int = 10_000) -> list[dict[str, Any]]:
    """Events of the stream until it ends by itself, or `most` of them."""
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    found: list[dict[str, Any]] = []
    with api.stream("GET", f"/runs/{run_id}/stream", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        event: dict[str, str] = {}
        for line in answer.iter_lines():
            if line:
                field, _, value = line.partition(": ")
                event[field] = value
                continue
            if "data" in event:
                data = json.loads(event["data"])
                assert (event["id"], event["event"]) == (str(data["seq"]), data["type"])
                found.append(data)
                if len(found) == most:
                    break
            event = {}
    return found


class TestLists:
    def test_filters(self, api: httpx.Client, name: str) -> None:
        workflow = create(api, one_step(name))
        runs = [execute(api, name, {"x": i})["id"] for i in range(3)]
        runs.append(execute(api, name)["id"])  # fails: there is no `x`

        def ids(**query: Any) -> list[str]:
            answer = api.get("/runs", params=query)
            assert answer.status_code == 200, answer.text
            return [one["id"] for one in answer.json()["items"]]

        assert ids(workflow=name) == ids(workflow=workflow["id"]) == runs[::-1]
        assert ids(workflow=name, status="completed") == runs[2::-1]
        assert ids(workflow=name, status="failed") == runs[3:]
        assert ids(workflow=name, status=["failed", "completed"]) == runs[::-1]
        assert ids(search=name) == runs[::-1]
        assert ids(search=runs[1]) == [runs[1]]
        assert ids(search="%") == ids(search="_%\\") == []
        shown = {one["id"]: one for one in api.get("/runs", params={"workflow": name}).json()["items"]}
        second = shown[runs[1]]["created_at"]
        assert ids(workflow=name, **{"from": second}) == runs[:0:-1]
        assert ids(workflow=name, to=second) == runs[:1]
        assert (
            ids(workflow=name, **{"from": "0001-01-01T00:00:00+14:00", "to": "9999-12-31T23:59:59-14:00"}) == runs[::-1]
        )
        assert ids(workflow=name, to="2020-01-01T00:00:00") == []

    def test_pages_are_stable_while_runs_arrive(self, api: httpx.Client, name: str) -> None:
        create(api, one_step(name))
        before = [execute(api, name, {"x": i})["id"] for i in range(25)]
        seen: list[str] = []
        cursor = None
        while True:
            query = {"workflow": name, "limit": 7, **({"cursor": cursor} if cursor else {})}
            page = api.get("/runs", params=query).json()
            seen += [one["id"] for one in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
            assert len(page["items"]) == 7
            execute(api, name, {"x": 0})
        assert seen == before[::-1]

    def test_pages_of_events(self, api: httpx.Client, name: str) -> None:
        create(api, one_step(name, foreach="{{ input.xs }}", with_={"value": "{{ item }}"}))
        run = execute(api, name, {"xs": list(range(40))})
        seen: list[int] = []
        cursor: Any = 0
        while cursor is not None:
            page = api.get(f"/runs/{run['id']}/events", params={"limit": 9, "cursor": cursor}).json()
            seen += [one["seq"] for one in page["items"]]
            cursor = page["next_cursor"]
        assert len(seen) > 40
        assert seen == list(range(1, len(seen) + 1))
        problem(api.get(f"/runs/{run['id']}/events", params={"limit": 101}), 422)
        problem(api.get(f"/runs/{run['id']}/events", params={"cursor": -1}), 422)


class TestStream:
    def test_live_and_resumed_anywhere(self, api: httpx.Client, name: str) -> None:
        steps = [
            {"id": f"s{i}", "node": "flow.delay", "with": {"seconds": 0.15}, "needs": [f"s{i - 1}"] if i else []}
            for i in range(6)
        ]
        create(api, {"name": name, "steps": steps})
        run = execute(api, name, wait=0)
        begun = time.monotonic()
        live = read_stream(api, run["id"])
        assert time.monotonic() - begun > 0.5, "the run was to be watched while it goes on"
        journal = api.get(f"/runs/{run['id']}/events").json()["items"]
        assert live == journal
        for cut in range(len(journal) + 1):
            assert read_stream(api, run["id"], after=cut) == journal[cut:]

    def test_cut_off_and_resumed_while_it_runs(self, api: httpx.Client, name: str) -> None:
        create(api, one_step(name, "flow.delay", {"seconds": 0.05}, foreach="{{ input.xs }}", concurrency=1))
        run = execute(api, name, {"xs": list(range(12))}, wait=0)
        seen: list[int] = []
        while not seen or seen[-1] < 10_000:
            got = read_stream(api, run["id"], after=seen[-1] if seen else None, most=3)
            seen += [one["seq"] for one in got]
            if not got or got[-1]["type"] == "run_completed":
                break
        assert seen == [one["seq"] for one in _all_events(api, run["id"])]

    def test_a_resumption_that_is_none(self, api: httpx.Client, name: str) -> None:
        create(api, one_step(name))
        run = execute(api, name, {"x": 1})
        for bad in ("abc", "-1", "1.5", "99999999999999999999"):
            problem(api.get(f"/runs/{run['id']}/stream", headers={"Last-Event-ID": bad}), 400)
        assert read_stream(api, run["id"], after=999_999) == []


class TestExport:
    def test_json_and_csv(self, api: httpx.Client, name: str) -> None:
        evil = '=cmd|"/c calc"!A1'
        create(api, one_step(name))
        run = execute(api, name, {"x": evil})
        exported = api.get(f"/runs/{run['id']}/export")
        assert "attachment" in exported.headers["content-disposition"]
        assert exported.json()["run"] == run
        assert exported.json()["events"] == _all_events(api, run["id"])
        assert exported.json()["spec"]["name"] == name

        table = api.get(f"/runs/{run['id']}/export", params={"format": "csv"})
        assert table.headers["content-type"].startswith("text/csv")
        rows = list(csv.reader(io.StringIO(table.text)))
        assert [row[0] for row in rows[1:]] == [str(one["seq"]) for one in exported.json()["events"]]
        assert evil in json.loads(rows[2][-1])["output"]
        assert not [cell for row in rows for cell in row if cell[:1] in ("=", "+", "-", "@", "\t", "\r")]
        problem(api.get(f"/runs/{run['id']}/export", params={"format": "xml"}), 422)


class TestCancel:
    @pytest.mark.parametrize("step", ["hang", "trickle", "delay", "retry"])
    def test_within_a_second(self, api: httpx.Client, target: Target, name: str, step: str) -> None:
        if step == "delay":
            create(api, one_step(name, "flow.delay", {"seconds": 600}))
        elif step == "retry":
            retry = {"max_attempts": 5, "initial": "10m", "max": "10m"}
            create(api, one_step(name, "http.request", {"url": "http://127.0.0.1:9/"}, retry=retry))
        else:
            create(api, one_step(name, "http.request", {"url": f"{target.url}/{step}/{name}"}))
        run = execute(api, name, wait=0)
        if step in ("hang", "trickle"):
            target.wait_for(f"/{step}/{name}")
        time.sleep(0.2)
        begun = time.monotonic()
        answer = api.post(f"/runs/{run['id']}/cancel", json={"reason": "changed my mind"})
        assert time.monotonic() - begun < 1
        assert answer.json()["status"] == "cancelled"
        shown = finished(api, run["id"], 1)
        assert shown["cancel_reason"] == "changed my mind"
        assert shown["steps"][0]["status"] == "cancelled"
        problem(api.post(f"/runs/{run['id']}/cancel"), 409)
        traces = api.get("/traces", params={"run_id": run["id"]}).json()["items"]
        assert [one["status"] for one in traces] == (["error"] if step == "retry" else ["cancelled"])

    def test_whoever_waits_is_told(self, api: httpx.Client, server: RunningServer, target: Target, name: str) -> None:
        create(api, hanging(name, target))
        answers: list[dict[str, Any]] = []
        with server.client() as other:
            other.base_url = api.base_url
            waiting = threading.Thread(target=lambda: answers.append(execute(other, name, wait=20)))
            waiting.start()
            target.wait_for(f"/hang/{name}")
            run = api.get("/runs", params={"workflow": name}).json()["items"][0]
            api.post(f"/runs/{run['id']}/cancel")
            waiting.join(3)
        assert [one["status"] for one in answers] == ["cancelled"]


@pytest.fixture(scope="module")
def resolved(target: Target) -> Any:
    """A server that was killed while unsafe calls were in flight, and started again."""
    with running_server() as server, server.client() as api:
        api.base_url = httpx.URL(server.url + "/api/v1")
        for outcome in ("succeeded", "failed", "retry"):
            create(api, hanging(f"post_{outcome}", target, method="POST"))
            execute(api, f"post_{outcome}", wait=0)
            target.wait_for(f"/hang/post_{outcome}")
        server.kill()
        server.start()
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            runs = api.get("/runs").json()["items"]
            if all(one["recoveries"] and one["status"] == "waiting" for one in runs):
                break
            time.sleep(0.1)
        yield api, target


class TestOutcomeUnknown:
    @pytest.mark.parametrize("outcome", ["succeeded", "failed", "retry"])
    def test_a_person_tells(self, resolved: tuple[httpx.Client, Target], outcome: str) -> None:
        api, target = resolved
        run_id = api.get("/runs", params={"search": f"post_{outcome}"}).json()["items"][0]["id"]
        run = api.get(f"/runs/{run_id}").json()
        step = run["steps"][0]
        assert (run["status"], step["status"]) == ("waiting", "outcome_unknown")
        assert step["waiting_for"]["reason"] == "outcome_unknown"
        problem(api.post(f"/runs/{run_id}/steps/nobody/resolve", json={"outcome": "failed"}), 409)
        problem(api.post(f"/runs/{run_id}/steps/only/resolve", json={"outcome": "maybe"}), 422)
        body = {"outcome": outcome, **({"output": {"id": "ch_1"}} if outcome == "succeeded" else {})}
        answer = api.post(f"/runs/{run_id}/steps/only/resolve", json=body)
        assert answer.status_code in (200, 202), answer.text
        path = f"/hang/post_{outcome}"
        if outcome == "retry":
            assert len(target.wait_for(path, 2)) == 2
            api.post(f"/runs/{run_id}/cancel")
            return
        run = finished(api, run_id)
        assert run["status"] == ("completed" if outcome == "succeeded" else "failed")
        if outcome == "succeeded":
            assert run["outputs"] == {"result": {"id": "ch_1"}}
        assert len(target.to(path)) == 1


def _all_events(api: httpx.Client, run_id: str) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = api.get(f"/runs/{run_id}/events", params={"limit": 100}).json()["items"]
    return events


def test_children_are_listed_with_their_parent_alone(api: httpx.Client, name: str) -> None:
    child = {"name": f"{name}_child", "steps": [{"id": "a", "node": "transform.map", "with": {"value": 1}}]}
    assert api.post("/workflows", json=child).status_code == 201
    body = {"items": [1, 2, 3], "workflow": child["name"]}
    parent = {"name": name, "steps": [{"id": "each", "node": "flow.foreach", "with": body}]}
    assert api.post("/workflows", json=parent).status_code == 201
    run = api.post(f"/workflows/{name}/execute?wait=10").json()
    assert run["status"] == "completed"

    def listed(**query: Any) -> set[str]:
        return {one["workflow"] for one in api.get("/runs", params={"limit": 100, **query}).json()["items"]}

    assert name in listed()
    assert child["name"] not in listed()
    assert {name, child["name"]} <= listed(nested=True)
    assert listed(parent=run["id"]) == {child["name"]}
    assert len(api.get("/runs", params={"parent": run["id"]}).json()["items"]) == 3


def test_an_edit_mends_an_expression_that_fails(api: httpx.Client, name: str) -> None:
    broken = {"id": "b", "node": "transform.map", "with": {"value": "{{ 10 / input.x }}"}}
    assert api.post("/workflows", json={"name": name, "steps": [broken]}).status_code == 201
    run = api.post(f"/workflows/{name}/execute?wait=10", json={"input": {"x": 0}}).json()
    assert run["error"]["class"] == "expression"
    assert api.post(f"/runs/{run['id']}/steps/b/redrive", json={"with": {"value": 7}}).status_code in (200, 202)
    until = time.monotonic() + 5
    while (now := api.get(f"/runs/{run['id']}").json())["status"] != "completed" and time.monotonic() < until:
        time.sleep(0.02)
    assert now["steps"][0]["output"] == 7


def test_the_wait_at_a_limit_is_time_in_the_queue(api: httpx.Client, name: str) -> None:
    step = {"id": "m", "node": "transform.map", "foreach": [1, 2, 3], "with": {"value": "{{ item }}"}}
    step |= {"limit": {"rate": {"calls": 5, "per": "1s"}}}
    assert api.post("/workflows", json={"name": name, "steps": [step]}).status_code == 201
    run = api.post(f"/workflows/{name}/execute?wait=10").json()
    assert run["status"] == "completed"
    until = time.monotonic() + 10
    rows: list[dict[str, Any]] = []
    while len(rows) < 3 and time.monotonic() < until:
        rows = api.get("/traces", params={"run_id": run["id"]}).json()["items"]
        time.sleep(0.05)
    waited = sorted(row["queue_ms"] for row in rows)
    assert waited[2] > 250
    assert max(row["latency_ms"] for row in rows) < 150
