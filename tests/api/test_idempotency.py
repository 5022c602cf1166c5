"""A write that is sent again is done once, whatever happens in between."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.api.conftest import API, create, finished, one_step, problem
from tests.api.target import Target
from tests.server import RunningServer, running_server


def test_the_same_request_is_the_same_run(api: httpx.Client, target: Target, name: str) -> None:
    create(api, one_step(name, "http.request", {"url": f"{target.url}/data/{name}"}))
    key = {"Idempotency-Key": name}
    first = api.post(f"/workflows/{name}/execute", json={"input": {"a": 1}}, headers=key)
    finished(api, first.json()["id"])
    again = api.post(f"/workflows/{name}/execute?wait=10", json={"input": {"a": 1}}, headers=key)
    assert again.status_code == 200
    assert again.headers["idempotency-replayed"] == "true"
    assert (again.json()["id"], again.json()["status"]) == (first.json()["id"], "completed")
    assert len(target.to(f"/data/{name}")) == 1

    other = problem(api.post(f"/workflows/{name}/execute", json={"input": {"a": 2}}, headers=key), 422)
    assert other["faults"][0]["code"] == "idempotency_key_reused"
    assert len(api.get("/runs", params={"workflow": name}).json()["items"]) == 1


def test_many_at_once_are_one_run(api: httpx.Client, target: Target, name: str) -> None:
    create(api, one_step(name, "http.request", {"url": f"{target.url}/data/{name}"}))

    def send(round: int, wait: int) -> str:
        answer = api.post(
            f"/workflows/{name}/execute?wait={wait}", json={"input": {}}, headers={"Idempotency-Key": f"{name}-{round}"}
        )
        assert answer.status_code in (200, 202), answer.text
        return str(answer.json()["id"])

    with ThreadPoolExecutor(8) as pool:
        for round in range(15):
            ids = set(pool.map(send, [round] * 8, [0, 5] * 4))
            assert len(ids) == 1, ids
            assert finished(api, ids.pop())["status"] == "completed"
    assert len(api.get("/runs", params={"workflow": name, "limit": 100}).json()["items"]) == 15
    assert len(target.to(f"/data/{name}")) == 15


def test_a_refused_request_leaves_the_key_free(api: httpx.Client, name: str) -> None:
    key = {"Idempotency-Key": name}
    problem(api.post(f"/workflows/{name}/execute", json={"input": {"x": 1}}, headers=key), 404)
    create(api, one_step(name))
    answer = api.post(f"/workflows/{name}/execute?wait=5", json={"input": {"x": 2}}, headers=key)
    assert answer.json()["outputs"] == {"result": 2}


def test_workflows(api: httpx.Client, name: str) -> None:
    key = {"Idempotency-Key": name}
    first = api.post("/workflows", json=one_step(name), headers=key)
    create(api, one_step(name, with_={"value": 2}))
    again = api.post("/workflows", json=one_step(name), headers=key)
    assert (again.status_code, again.json()) == (201, first.json())
    assert api.get(f"/workflows/{name}").json()["version"] == 2
    problem(api.post("/workflows", json=one_step(name, with_={"value": 3}), headers=key), 422)


@pytest.mark.parametrize("key", ["", "k" * 201, "tab\there"])
def test_keys_that_are_none(api: httpx.Client, name: str, key: str) -> None:
    create(api, one_step(name))
    problem(api.post(f"/workflows/{name}/execute", json={}, headers={"Idempotency-Key": key}), 400)


def test_a_killed_server_and_the_same_key(target: Target, name: str) -> None:
    """Killed while the step is at work: the same key finds the run again, and it finishes."""

    def send(server: RunningServer, wait: int) -> httpx.Response:
        with server.client() as client:
            return client.post(
                f"{API}/workflows/{name}/execute?wait={wait}", json={"input": {}}, headers={"Idempotency-Key": "once"}
            )

    with running_server() as server:
        with server.client() as client:
            spec = one_step(name)
            spec["steps"] = [
                {"id": "slow", "node": "flow.delay", "with": {"seconds": 1}},
                {"id": "only", "node": "http.request", "needs": ["slow"], "with": {"url": f"{target.url}/data/{name}"}},
            ]
            assert client.post(f"{API}/workflows", json=spec).status_code == 201
        first = send(server, 0).json()["id"]
        server.kill()
        server.start()
        again = send(server, 20)
        assert again.status_code == 200
        assert (again.json()["id"], again.json()["status"]) == (first, "completed")
        with server.client() as client:
            assert len(client.get(f"{API}/runs").json()["items"]) == 1
    assert len(target.to(f"/data/{name}")) == 1
