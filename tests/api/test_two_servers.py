"""Two servers on one PostgreSQL: whatever is asked of one counts in the other, whoever drives the run."""

import shutil
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import asyncpg
import httpx
import pytest

from infra.postgres.embedded import EmbeddedPostgres
from tests.api.conftest import API, create, execute, finished, one_step, problem
from tests.api.eventually import until
from tests.api.target import Target, target_server
from tests.server import RunningServer, short_home


class Pair(NamedTuple):
    """Clients of two servers with one database; `left` drives what is executed with it."""

    left: httpx.Client
    right: httpx.Client


@pytest.fixture(scope="module")
async def shared(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """An empty database: the servers make its tables, both at once."""
    admin = await asyncpg.connect(postgres.dsn())
    await admin.execute("CREATE DATABASE two_servers")
    yield postgres.dsn("two_servers")
    await admin.execute("DROP DATABASE two_servers WITH (FORCE)")
    await admin.close()


@pytest.fixture(scope="module")
def pair(shared: str) -> Iterator[Pair]:
    servers = [RunningServer(short_home(), env={"REFLUX_DATABASE_URL": shared}) for _ in range(2)]
    try:
        for one in servers:
            one.start(wait=False)
        for one in servers:
            one.wait_ready()
        with servers[0].client() as left, servers[1].client() as right:
            for client, server in ((left, servers[0]), (right, servers[1])):
                client.base_url = httpx.URL(server.url + API)
            yield Pair(left, right)
    finally:
        for one in servers:
            one.stop()
            shutil.rmtree(one.home.parent, ignore_errors=True)


@pytest.fixture
def provider() -> Iterator[Target]:
    with target_server() as running:
        yield running


def run_of(client: httpx.Client, run_id: str) -> dict[str, Any]:
    run: dict[str, Any] = client.get(f"/runs/{run_id}").json()
    return run


def waiting(pair: Pair, name: str, *more: dict[str, Any]) -> str:
    """A run of the left server that waits for the signal `go`."""
    hold = {"id": "hold", "node": "flow.wait", "with": {"event": "go"}}
    last = more[-1]["id"] if more else "hold"
    create(pair.right, {"name": name, "steps": [hold, *more], "outputs": {"x": f"{{{{ steps.{last}.output }}}}"}})
    run_id = str(execute(pair.left, name, {"n": 1}, wait=0)["id"])
    until(lambda: run_of(pair.right, run_id)["status"] == "waiting")
    return run_id


def after(value: Any = "{{ steps.hold.output }}", **more: Any) -> dict[str, Any]:
    return {"id": "after", "node": "transform.map", "needs": ["hold"], "with": {"value": value}, **more}


class TestTheOtherServer:
    """Asked of the server that does not drive the run; the answer shows what has been done."""

    def test_signal(self, pair: Pair, name: str) -> None:
        run_id = waiting(pair, name)
        answer = pair.right.post(f"/runs/{run_id}/signals/go", json={"payload": 7})
        assert answer.is_success, answer.text
        assert finished(pair.right, run_id, 2)["outputs"] == {"x": 7}

    def test_cancel(self, pair: Pair, name: str) -> None:
        run_id = waiting(pair, name)
        answer = pair.right.post(f"/runs/{run_id}/cancel", json={"reason": "enough"})
        assert answer.is_success, answer.text
        assert (answer.json()["status"], answer.json()["cancel_reason"]) == ("cancelled", "enough")
        assert run_of(pair.left, run_id)["status"] == "cancelled"
        problem(pair.right.post(f"/runs/{run_id}/cancel", json={}), 409)

    def test_pause_and_resume(self, pair: Pair, name: str) -> None:
        run_id = waiting(pair, name, after())
        assert pair.right.post(f"/runs/{run_id}/pause", json={}).json()["status"] == "paused"
        problem(pair.right.post(f"/runs/{run_id}/pause", json={}), 409)
        pair.right.post(f"/runs/{run_id}/signals/go", json={"payload": 1})
        run = run_of(pair.left, run_id)
        assert [step["status"] for step in run["steps"]] == ["completed", "queued"]
        assert pair.right.post(f"/runs/{run_id}/resume").is_success
        assert finished(pair.right, run_id, 2)["outputs"] == {"x": 1}

    def test_the_graph(self, pair: Pair, name: str) -> None:
        run_id = waiting(pair, name, after())
        step = {"id": "more", "node": "transform.map", "with": {"value": "{{ steps.after.output + 1 }}"}}
        patched = pair.right.patch(f"/runs/{run_id}/graph", json={"operations": [{"op": "add_step", "step": step}]})
        assert patched.is_success, patched.text
        assert [one["id"] for one in patched.json()["steps"]] == ["hold", "after", "more"]
        wrong = {"operations": [{"op": "update_params", "id": "hold", "with": {"event": "x"}}]}
        assert (
            problem(pair.right.patch(f"/runs/{run_id}/graph", json=wrong), 422)["faults"][0]["code"] == "step_started"
        )
        pair.right.post(f"/runs/{run_id}/signals/go", json={"payload": 1})
        assert finished(pair.right, run_id, 2)["steps"][-1]["output"] == 2

    def test_redrive(self, pair: Pair, name: str) -> None:
        """Of a run that has ended; it is nobody's then, and whoever is asked goes on with it."""
        run_id = waiting(pair, name, after("{{ 1 / (steps.hold.output - 1) }}"))
        pair.right.post(f"/runs/{run_id}/signals/go", json={"payload": 2})
        assert finished(pair.right, run_id, 2)["outputs"] == {"x": 1}
        again = pair.right.post(f"/runs/{run_id}/steps/after/redrive", json={"with": {"value": 5}})
        assert again.is_success, again.text
        assert finished(pair.left, run_id, 2)["outputs"] == {"x": 5}
        problem(pair.right.post(f"/runs/{run_id}/steps/nobody/redrive", json={}), 404)

    def test_breakpoints(self, pair: Pair, name: str) -> None:
        run_id = waiting(pair, name, after())
        assert pair.right.put(f"/runs/{run_id}/breakpoints", json={"steps": ["after"]}).json()["breakpoints"] == [
            "after"
        ]
        pair.right.post(f"/runs/{run_id}/signals/go", json={"payload": 1})
        at = until(lambda: run_of(pair.right, run_id)["steps"][1].get("waiting_for"))
        assert (at["reason"], at["input"]) == ("breakpoint", {"value": 1})
        assert pair.right.post(f"/runs/{run_id}/steps/after/continue", json={"with": {"value": 2}}).is_success
        assert finished(pair.right, run_id, 2)["outputs"] == {"x": 2}

    def test_approval_and_restart(self, pair: Pair, name: str) -> None:
        hold = {"id": "hold", "node": "flow.wait", "with": {"approval": True}}
        create(pair.left, {"name": name, "steps": [hold], "outputs": {"ok": "{{ steps.hold.output.approved }}"}})
        run_id = execute(pair.left, name, wait=0)["id"]
        until(lambda: run_of(pair.right, run_id)["status"] == "waiting")
        assert pair.right.post(f"/runs/{run_id}/steps/hold/approve", json={}).is_success
        assert finished(pair.right, run_id, 2)["outputs"] == {"ok": True}
        anew = pair.right.post(f"/runs/{run_id}/restart", json={}).json()
        assert anew["restarted_from"] == run_id

    def test_bulk(self, pair: Pair, name: str) -> None:
        ids = [waiting(pair, name) for _ in range(3)]
        answer = pair.right.post("/runs/bulk", json={"action": "cancel", "filter": {"workflow": name}}).json()
        assert {one["run_id"] for one in answer["items"] if one["ok"]} == set(ids)
        assert {run_of(pair.left, one)["status"] for one in ids} == {"cancelled"}

    def test_a_caller_that_waits_elsewhere(self, pair: Pair, name: str) -> None:
        """The same idempotency key, at both servers: one run."""
        create(pair.left, one_step(name, with_={"value": 1}))
        until(lambda: pair.right.get(f"/workflows/{name}").is_success)
        path, key = f"/workflows/{name}/execute?wait=5", {"Idempotency-Key": name}
        first = pair.left.post(path, json={}, headers=key).json()
        second = pair.right.post(path, json={}, headers=key)
        assert (second.json()["id"], second.json()["status"]) == (first["id"], "completed")


def test_an_event_wakes_runs_of_both_servers_within_a_second(pair: Pair, name: str) -> None:
    wait = {"event": f"{name}.go", "match": "event.n == 1"}
    create(pair.left, one_step(name, "flow.wait", wait))
    runs = [execute(client, name, wait=0)["id"] for client in (pair.left, pair.right) for _ in range(20)]
    until(lambda: all(run_of(pair.left, one)["status"] == "waiting" for one in runs))
    began = time.monotonic()
    pair.right.post("/events", json={"name": f"{name}.go", "payload": {"n": 1}})
    for one in runs:
        assert finished(pair.left, one)["outputs"] == {"result": {"n": 1}}
    assert time.monotonic() - began < 1.5


def test_an_event_trigger_starts_one_run(pair: Pair, name: str) -> None:
    create(pair.left, {**one_step(name, with_={"value": 1}), "triggers": [{"type": "event", "name": f"{name}.paid"}]})
    with ThreadPoolExecutor(4) as pool:
        body = {"name": f"{name}.paid", "payload": {}, "dedupe_key": "k"}
        answers = list(pool.map(lambda client: client.post("/events", json=body).json(), [*pair, *pair]))
    assert sum(len(one["started"]) for one in answers) == 1
    until(lambda: len(pair.left.get("/runs", params={"workflow": name}).json()["items"]) == 1)


class TestRoutes:
    def _bind(self, pair: Pair, node: str, provider: Target) -> None:
        for version, label in (("1.0.0", "one"), ("2.0.0", "two")):
            call = {"method": "POST", "url": f"{provider.url}/charge?by={label}", "json": {}}
            body = {"name": node, "version": version, "label": label, "base": "http.request", "with": call}
            assert pair.left.post("/nodes", json={**body, "effect": "idempotent"}).status_code == 201

    def test_a_route_counts_in_both_within_a_second(self, pair: Pair, name: str, provider: Target) -> None:
        node = f"{name}.charge"
        self._bind(pair, node, provider)
        arms = [{"version": "one", "weight": 1}, {"version": "two", "weight": 0}]
        assert pair.left.put(f"/nodes/{node}/route", json={"arms": arms}).is_success
        until(lambda: pair.right.get(f"/nodes/{node}/route").is_success, 1)
        create(pair.left, one_step(name, node, {"x": 1}))

        def arm(client: httpx.Client) -> str:
            return str(execute(client, name)["steps"][0].get("arm"))

        until(lambda: (arm(pair.left), arm(pair.right)) == ("one", "one"), 1)
        for one in arms:
            one["weight"] = 1 - float(str(one["weight"]))
        began = time.monotonic()
        assert pair.left.put(f"/nodes/{node}/route", json={"arms": arms}).is_success
        assert arm(pair.left) == "two", "at once where it was changed"
        until(lambda: arm(pair.right) == "two", 1)
        assert time.monotonic() - began < 1

    def test_one_breaker_for_both(self, pair: Pair, name: str, provider: Target) -> None:
        """It opens in both, and one of them probes."""
        node = f"{name}.charge"
        self._bind(pair, node, provider)
        arms = [{"version": "one", "weight": 1, "fallback": "two"}, {"version": "two", "weight": 0}]
        breaker = {"min_calls": 4, "failure_rate": 0.3, "cooldown": "1s"}
        assert pair.left.put(f"/nodes/{node}/route", json={"arms": arms, "breaker": breaker}).is_success
        create(pair.left, one_step(name, node, {"x": 1}))

        def by(label: str) -> list[float]:
            return [call.at for call in provider.calls if call.query["by"] == [label]]

        provider.fails = lambda number: provider.calls[-1].query["by"] == ["one"]
        until(lambda: pair.right.get(f"/nodes/{node}/route").is_success, 1)
        for _ in range(6):
            assert execute(pair.left, name)["status"] == "completed"

        def state(client: httpx.Client) -> str:
            return str(client.get(f"/nodes/{node}/route").json()["arms"][0].get("breaker", {}).get("state"))

        assert state(pair.left) == "open"
        until(lambda: state(pair.right) in ("open", "half_open"), 1)
        before = len(by("one"))
        began = time.monotonic()
        with ThreadPoolExecutor(4) as pool:
            while time.monotonic() - began < 1.4:
                runs = list(pool.map(lambda client: execute(client, name), [*pair, *pair]))
                assert all(run["status"] == "completed" for run in runs)
        assert len(by("one")) - before == 1, "one probe, over both servers"


def test_a_run_is_watched_from_the_other_server(pair: Pair, name: str) -> None:
    run_id = waiting(pair, name, after())
    seen: list[str] = []
    with pair.right.stream("GET", f"/runs/{run_id}/stream") as stream:
        for line in stream.iter_lines():
            if line.startswith("event: "):
                seen.append(line.removeprefix("event: "))
                if seen[-1] == "attempt_started":
                    pair.left.post(f"/runs/{run_id}/signals/go", json={})
    assert (seen[0], seen[-1]) == ("run_created", "run_completed")


def test_a_webhook_of_one_server_works_at_the_other(pair: Pair, name: str) -> None:
    hook = {"type": "webhook", "path": name, "answer": "sync", "name": "hook"}
    create(pair.left, {**one_step(name), "triggers": [hook]})
    assert pair.right.post(f"/webhooks/{name}", json={"x": 5}).json() == {"result": 5}
    (trigger,) = pair.right.get("/triggers", params={"workflow": name}).json()["items"]
    assert pair.left.post(f"/triggers/{trigger['id']}/pause").is_success
    problem(pair.right.post(f"/webhooks/{name}", json={"x": 5}), 409)


def test_values_and_limits_of_one_server_count_in_the_other(pair: Pair, name: str) -> None:
    create(pair.left, {**one_step(name, with_={"value": "{{ vars.shared }}"}), "policies": {"concurrency": 1}})
    pair.left.put("/variables/shared", json={"value": name})
    until(lambda: pair.right.get(f"/workflows/{name}").is_success)
    with ThreadPoolExecutor(6) as pool:
        runs = list(pool.map(lambda client: execute(client, name), [*pair, *pair, *pair]))
    assert {run["status"] for run in runs} == {"completed"}
    assert {run["outputs"]["result"] for run in runs} == {name}
    cached = f"{name}_cached"
    create(pair.left, one_step(cached, "transform.map", {"value": 1}, cache={"ttl": "1h"}))
    until(lambda: pair.right.get(f"/workflows/{cached}").is_success)
    assert "cache_hit" not in execute(pair.left, cached)["steps"][0]
    assert execute(pair.right, cached)["steps"][0]["cache_hit"]
