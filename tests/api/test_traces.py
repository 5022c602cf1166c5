"""Traces brought in from elsewhere, listed, and summed up."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.api.conftest import create, execute, one_step, problem

START = datetime(2026, 3, 1, 2, 0, tzinfo=UTC)
NDJSON = {"Content-Type": "application/x-ndjson"}


def row(name: str, i: int, **more: Any) -> dict[str, Any]:
    return {
        "run_id": f"{name}-{i}",
        "step_id": "charge",
        "node": name,
        "status": "ok",
        "start": (START + timedelta(minutes=i)).isoformat(),
        "latency_ms": 100 + i,
        **more,
    }


def test_json_and_again(api: httpx.Client, name: str) -> None:
    rows = [row(name, i) for i in range(50)]
    assert api.post("/traces", json=rows).json() == {"inserted": 50, "duplicates": 0, "rejected": 0, "faults": []}
    assert api.post("/traces", json=rows).json()["duplicates"] == 50
    seen: list[str] = []
    cursor = None
    while True:
        query = {"node": name, "limit": 20, **({"cursor": cursor} if cursor else {})}
        page = api.get("/traces", params=query).json()
        seen += [one["run_id"] for one in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == [f"{name}-{i}" for i in range(49, -1, -1)]


def test_bad_rows_are_named_and_good_ones_kept(api: httpx.Client, name: str) -> None:
    lines = [
        json.dumps(row(name, 0)),
        "{not json",
        json.dumps({**row(name, 1), "status": "fine"}),
        json.dumps({key: value for key, value in row(name, 2).items() if key != "node"}),
        json.dumps(row(name, 3, latency_ms=-1)),
        json.dumps(row(name, 4, start="yesterday")),
        "5",
        json.dumps(row(name, 5)),
    ]
    report = api.post("/traces", content="\n".join(lines), headers=NDJSON).json()
    assert (report["inserted"], report["rejected"]) == (2, 6)
    assert [one["line"] for one in report["faults"]] == [2, 3, 4, 5, 6, 7]
    assert [one["field"] for one in report["faults"]] == ["", "status", "node", "latency_ms", "start", ""]
    assert all(one["reason"] for one in report["faults"])
    assert len(api.get("/traces", params={"node": name}).json()["items"]) == 2
    elements = [json.loads(line) for line in lines if line != "{not json"]
    report = api.post("/traces", json=elements).json()
    assert (report["duplicates"], [one["line"] for one in report["faults"]]) == (2, [2, 3, 4, 5, 6])


def test_filters(api: httpx.Client, name: str) -> None:
    failed = {"status": "error", "error_class": "upstream_5xx", "error_message": "status 503"}
    rows = [row(name, i, workflow=f"{name}_flow", arm="b", node_version="1.0.0") for i in range(3)]
    rows += [row(name, i, step_id="other", **failed) for i in range(3, 5)]
    assert api.post("/traces", json=rows).json()["inserted"] == 5

    def count(**query: Any) -> int:
        answer = api.get("/traces", params={"node": name, **query})
        assert answer.status_code == 200, answer.text
        return len(answer.json()["items"])

    assert count() == 5
    assert count(run_id=f"{name}-1") == 1
    assert count(status="error") == count(error_class="upstream_5xx") == count(step_id="other") == 2
    assert count(workflow=f"{name}_flow") == count(arm="b") == count(node_version="1.0.0") == 3
    assert count(**{"from": (START + timedelta(minutes=1)).isoformat()}) == 4
    assert count(to=(START + timedelta(minutes=1)).isoformat()) == 1
    assert count(**{"from": "2026-03-01T04:01:00+02:00", "to": "2026-03-01T02:02:00"}) == 1
    assert count(**{"from": "0001-01-01T00:00:00Z", "to": "9999-12-31T23:59:59Z"}) == 5
    mark = api.get("/traces", params={"node": name, "status": "error"}).json()["items"][0]["error_fingerprint"]
    assert count(fingerprint=mark) == 2
    problem(api.get("/traces", params={"status": "nonsense"}), 422)
    problem(api.get("/traces", params={"cursor": "nonsense"}), 422)


def test_insights(api: httpx.Client, name: str) -> None:
    failed = {"status": "error", "error_class": "upstream_5xx", "error_message": "status 503"}
    rows = [row(name, i, cost_usd=0.01, **(failed if i % 4 == 0 else {})) for i in range(40)]
    assert api.post("/traces", json=rows).json()["inserted"] == 40
    window = {"from": START.isoformat(), "to": (START + timedelta(hours=1)).isoformat(), "node": name}

    def items(path: str, **query: Any) -> list[dict[str, Any]]:
        answer = api.get(f"/insights/{path}", params={**window, **query})
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["items"]
        return found

    reliability = items("reliability")
    assert (sum(one["attempts"] for one in reliability), sum(one["errors"] for one in reliability)) == (40, 10)
    assert [one["count"] for one in items("failures")] == [10]
    assert items("latency")[0]["count"] == 40
    assert items("cost")[0]["total_usd"] == pytest.approx(0.4)
    assert items("trends")
    for path in ("reliability", "failures", "latency", "cost", "trends"):
        for bad in (
            {"from": window["to"], "to": window["from"]},
            {"from": window["from"], "to": window["from"]},
            {"from": "1990-01-01T00:00:00Z", "to": "2026-01-01T00:00:00Z"},
            {"from": "nonsense"},
        ):
            assert problem(api.get(f"/insights/{path}", params=bad), 422)["faults"]
        assert items(path, workflow="nobody") == []
    for bucket in (0, 59, 10**9):
        problem(api.get("/insights/latency", params={**window, "bucket": bucket}), 422)


def test_traces_of_a_run_just_finished_are_there(api: httpx.Client, name: str) -> None:
    create(api, one_step(name))
    for i in range(20):
        run = execute(api, name, {"x": i})
        assert len(api.get("/traces", params={"run_id": run["id"]}).json()["items"]) == 1


def test_what_is_no_import(api: httpx.Client) -> None:
    problem(api.post("/traces", json=5), 422)
    problem(api.post("/traces", content=b"<a/>", headers={"Content-Type": "text/xml"}), 415)
    assert api.post("/traces", json=[]).json()["inserted"] == 0
    assert api.post("/traces", content=b"", headers=NDJSON).json()["inserted"] == 0
