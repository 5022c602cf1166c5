"""What the engine promises, over HTTP: a real server, real providers beside it, and only what a client can see."""

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from itertools import pairwise
from math import sqrt
from typing import Any

import httpx
import pytest

from tests.api.conftest import API, create, execute, finished, one_step
from tests.api.eventually import traces, until
from tests.api.target import Target, target_server
from tests.server import RunningServer, running_server

BREAKER = {"min_calls": 10, "failure_rate": 0.3, "window": "30s", "cooldown": "1s"}


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """Tens of thousands of steps are not to stand beside tests that measure something."""
    with running_server() as running:
        yield running


@pytest.fixture
def providers() -> Iterator[tuple[Target, Target]]:
    """Two payment providers."""
    with target_server() as first, target_server() as second:
        yield first, second


def bind(api: httpx.Client, node: str, version: str, base: str, with_: dict[str, Any], **more: Any) -> None:
    made = api.post("/nodes", json={"name": node, "version": version, "base": base, "with": with_, **more})
    assert made.status_code == 201, made.text


def route(api: httpx.Client, node: str, arms: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    put = api.put(f"/nodes/{node}/route", json={"arms": arms, **more})
    assert put.status_code == 200, put.text
    found: dict[str, Any] = put.json()
    return found


class Payments:
    """A workflow with a node that two providers serve, and a route between them."""

    def __init__(self, api: httpx.Client, name: str, providers: tuple[Target, Target]) -> None:
        self.api = api
        self.name = name
        self.node = f"{name}.charge"
        for version, label, provider in zip(("1.0.0", "2.0.0"), ("stripe", "adyen"), providers, strict=True):
            call = {"method": "POST", "url": f"{provider.url}/charge", "json": "{{ input }}"}
            more = {"label": label, "effect": "idempotent", "output": {"by": label, "id": "{{ output.body.id }}"}}
            bind(api, self.node, version, "http.request", call, **more)
        step = {"id": "charge", "node": f"{self.node}", "with": {"amount": "{{ input.amount }}"}}
        create(api, {"name": name, "steps": [step], "outputs": {"by": "{{ steps.charge.output.by }}"}})

    def pay(self) -> dict[str, Any]:
        run = execute(self.api, self.name, {"amount": 12})
        assert run["status"] == "completed", run
        return run

    def pay_often(self, count: int, at_once: int) -> Counter[str]:
        """Who served the runs."""
        with ThreadPoolExecutor(at_once) as pool:
            runs = list(pool.map(lambda _: self.pay(), range(count)))
        return Counter(run["outputs"]["by"] for run in runs)

    def breaker(self, version: str = "1.0.0") -> dict[str, Any]:
        arms = self.api.get(f"/nodes/{self.node}/route").json()["arms"]
        found: dict[str, Any] = next(arm["breaker"] for arm in arms if arm["version"] == version)
        return found


@pytest.fixture
def payments(api: httpx.Client, name: str, providers: tuple[Target, Target]) -> Payments:
    return Payments(api, name, providers)


class TestPaymentProviders:
    def test_an_arm_that_fails_is_left_alone_and_comes_back(
        self, payments: Payments, providers: tuple[Target, Target]
    ) -> None:
        first, _ = providers
        arms = [{"version": "stripe", "weight": 100, "fallback": "adyen"}, {"version": "adyen", "weight": 0}]
        route(payments.api, payments.node, arms, breaker=BREAKER)
        payments.pay()

        first.fails = lambda number: number % 2 == 0
        payments.pay_often(60, at_once=8)
        assert payments.breaker()["state"] in ("open", "half_open")
        assert payments.breaker()["failures"] >= 3

        # It is out of order by now: nobody calls it but one probe after each pause, at a time.
        first.fails, first.slow, first.most_at_once = (lambda number: True), 0.3, 0
        before = len(first.calls)
        began = time.monotonic()
        while time.monotonic() - began < 3.4:
            served = payments.pay_often(10, at_once=10)
            assert served == {"adyen": 10}
        probes = first.calls[before:]
        assert 1 <= len(probes) <= 3, "after 1 s, 2 s, 4 s"
        assert first.most_at_once == 1
        gaps = [late.at - early.at for early, late in pairwise(probes)]
        assert all(gap > 1.9 for gap in gaps), "the pause doubles"

        first.fails, first.slow = (lambda number: False), 0.0
        until(lambda: payments.pay()["outputs"]["by"] == "stripe", 10)
        until(lambda: payments.breaker()["state"] == "closed")
        assert payments.pay_often(20, at_once=4) == {"stripe": 20}

    def test_each_attempt_says_how_its_arm_came_about(
        self, payments: Payments, providers: tuple[Target, Target]
    ) -> None:
        first, _ = providers
        arms = [{"version": "stripe", "weight": 100, "fallback": "adyen"}, {"version": "adyen", "weight": 0}]
        made = route(payments.api, payments.node, arms, breaker={**BREAKER, "cooldown": "300ms"})
        first.fails = lambda number: True
        for _ in range(10):
            run = payments.pay()
        # The step shows who served, not who was drawn.
        assert (run["steps"][0]["node_version"], run["steps"][0]["arm"]) == ("2.0.0", "adyen")
        run = payments.pay()
        until(lambda: payments.breaker()["state"] == "half_open")
        payments.pay()
        rows = traces(payments.api, 23, node=payments.node)
        assert {(row["arm_probability"], row["assigned_arm"], row["route_revision"]) for row in rows} == {
            (1.0, "stripe", made["revision"])
        }
        said = Counter(
            (row["arm"], row["node_version"], row["served_by"], row["breaker"], row["status"]) for row in rows
        )
        assert said == {
            ("stripe", "1.0.0", "drawn", "closed", "error"): 10,
            ("adyen", "2.0.0", "fallback", "closed", "ok"): 11,
            ("adyen", "2.0.0", "breaker", "closed", "ok"): 1,
            ("stripe", "1.0.0", "probe", "half_open", "error"): 1,
        }
        assert all(row["error_class"] == "upstream_5xx" for row in rows if row["status"] == "error")

    def test_the_callers_own_faults_do_not_open_a_breaker(self, api: httpx.Client, name: str, target: Target) -> None:
        node = f"{name}.charge"
        bind(api, node, "1.0.0", "http.request", {"url": f"{target.url}/echo/422"})
        route(api, node, [{"version": "1.0.0"}], breaker={**BREAKER, "min_calls": 2})
        create(api, {"name": name, "steps": [{"id": "a", "node": node}]})
        for _ in range(5):
            assert execute(api, name)["error"]["class"] == "upstream_4xx"
        breaker = api.get(f"/nodes/{node}/route").json()["arms"][0]["breaker"]
        assert (breaker["state"], breaker["failures"]) == ("closed", 0)

    def test_a_new_route_counts_for_the_next_step(self, payments: Payments) -> None:
        """Also of runs that are under way, and it can be taken back."""
        api, node = payments.api, payments.node
        route(api, node, [{"version": "stripe", "weight": 1}, {"version": "adyen", "weight": 0}])
        two = f"{payments.name}_two"
        steps = [
            {"id": "early", "node": node, "with": {"amount": 1}},
            {"id": "hold", "node": "flow.wait", "needs": ["early"], "with": {"event": "go"}},
            {"id": "late", "node": node, "needs": ["hold"], "with": {"amount": 2}},
        ]
        create(api, {"name": two, "steps": steps})
        run_id = execute(api, two, wait=0)["id"]
        until(lambda: api.get(f"/runs/{run_id}").json()["status"] == "waiting")
        route(api, node, [{"version": "stripe", "weight": 0}, {"version": "adyen", "weight": 1}])
        assert payments.pay()["outputs"] == {"by": "adyen"}
        api.post(f"/runs/{run_id}/signals/go", json={})
        arms = {step["id"]: step.get("arm") for step in finished(api, run_id)["steps"]}
        assert arms == {"early": "stripe", "hold": None, "late": "adyen"}
        back = api.post(f"/nodes/{node}/route/revert")
        assert (back.json()["revision"], back.json()["reverted_to"]) == (3, 1)
        assert payments.pay()["outputs"] == {"by": "stripe"}


class TestShares:
    def _node(self, api: httpx.Client, name: str) -> str:
        node = f"{name}.pick"
        for version in ("1.0.0", "2.0.0"):
            bind(api, node, version, "transform.map", {"value": version})
        route(api, node, [{"version": "1.0.0", "weight": 90}, {"version": "2.0.0", "weight": 10}])
        return node

    def test_20_000_executions_are_spread_as_the_weights_say(self, api: httpx.Client, name: str) -> None:
        node = self._node(api, name)
        step = {"id": "pick", "node": node, "foreach": "{{ input.items }}", "concurrency": 200}
        create(api, {"name": name, "steps": [step], "outputs": {"by": "{{ steps.pick.output }}"}})
        found: Counter[str] = Counter()
        for _ in range(4):
            run = execute(api, name, {"items": list(range(5_000))}, wait=60)
            assert run["status"] == "completed", run
            found.update(run["outputs"]["by"])
        assert found.total() == 20_000
        # Outside of this by chance once in a million.
        assert abs(found["2.0.0"] - 2_000) < 4.9 * sqrt(20_000 * 0.1 * 0.9)

    def test_what_is_repeated_keeps_its_arm(self, api: httpx.Client, name: str, target: Target) -> None:
        """Retries, re-drives, and units that come again."""
        node = f"{name}.call"
        for version in ("1.0.0", "2.0.0"):
            bind(api, node, version, "http.request", {"url": f"{target.url}/echo/503"})
        route(api, node, [{"version": "1.0.0"}, {"version": "2.0.0"}])
        retry = {"max_attempts": 3, "initial": "1ms", "max": "1ms"}
        create(api, {"name": name, "steps": [{"id": "a", "node": node, "retry": retry}]})
        with ThreadPoolExecutor(4) as pool:
            runs = list(pool.map(lambda _: execute(api, name)["id"], range(20)))
        for run_id in runs[:10]:
            assert api.post(f"/runs/{run_id}/steps/a/redrive", json={}).is_success
            finished(api, run_id)
        by_run: dict[str, set[str]] = {}
        for row in traces(api, 20 * 3 + 10 * 3, workflow=name):
            by_run.setdefault(row["run_id"], set()).add(row["arm"])
        assert all(len(arms) == 1 for arms in by_run.values())
        assert len(set().union(*by_run.values())) == 2
        units = {execute(api, name, unit_key="customer-7")["steps"][0]["arm"] for _ in range(5)}
        assert len(units) == 1


def test_a_run_that_is_taken_up_again_keeps_its_arm(name: str) -> None:
    """The server is killed while calls are under way, and started again."""
    with target_server() as target, running_server() as server:
        with server.client() as api:
            api.base_url = httpx.URL(server.url + API)
            node = f"{name}.call"
            for version in ("1.0.0", "2.0.0"):
                call = {"url": f"{target.url}/charge?by={version}", "method": "PUT", "json": 1}
                bind(api, node, version, "http.request", call)
            route(api, node, [{"version": "1.0.0"}, {"version": "2.0.0"}])
            create(api, one_step(name, node, {"x": 1}))
            target.slow = 30
            runs = [execute(api, name, wait=0)["id"] for _ in range(12)]
            target.wait_for("/charge", 12)
        server.kill()
        target.slow = 0
        server.start()
        with server.client() as api:
            api.base_url = httpx.URL(server.url + API)
            for run_id in runs:
                run = finished(api, run_id)
                assert (run["status"], run["recoveries"]) == ("completed", 1)
            rows = traces(api, 24, workflow=name)
    arms: dict[str, list[str]] = {}
    for row in rows:
        arms.setdefault(row["run_id"], []).append(row["arm"])
        assert (row["arm_probability"], row["served_by"]) == (0.5, "drawn")
    assert {len(one) for one in arms.values()} == {2}
    assert all(len(set(one)) == 1 for one in arms.values())
    assert len({one[0] for one in arms.values()}) == 2


def test_a_large_foreach_with_failing_items_completes(api: httpx.Client, name: str, server: RunningServer) -> None:
    step = {
        "id": "each",
        "node": "transform.map",
        "foreach": "{{ input.items }}",
        "concurrency": 100,
        "with": {"value": "{{ 100 / (item % 33) }}"},
        "on_error": "continue",
    }
    create(api, {"name": name, "steps": [step], "outputs": {"n": "{{ size(steps.each.output) }}"}})
    assert server.process is not None
    before = memory_mb(server.process.pid)
    run = execute(api, name, {"items": list(range(10_000))}, wait=60)
    assert (run["status"], run["outputs"]) == ("completed", {"n": 10_000})
    items = run["steps"][0]["output"]
    failed = [index for index, item in enumerate(items) if isinstance(item, dict)]
    assert failed == list(range(0, 10_000, 33))
    assert items[0]["error"]["class"] == "expression"
    assert items[34] == 100
    assert run["steps"][0]["items"] == {"total": 10_000, "finished": 10_000}
    assert memory_mb(server.process.pid) - before < 150
    for cursor in (0, 200, 400):
        began = time.monotonic()
        page = api.get(f"/runs/{run['id']}/events", params={"limit": 100, "cursor": cursor}).json()
        assert time.monotonic() - began < 0.5
        assert [one["seq"] for one in page["items"]] == list(range(cursor + 1, cursor + 1 + len(page["items"])))
        assert len(page["items"]) == 100


def memory_mb(pid: int) -> float:
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024


def test_a_thousand_waiting_runs_wake_within_a_second(api: httpx.Client, name: str) -> None:
    """One event that all wait for, and one for each."""
    wait = {"event": f"{name}.paid", "match": "event.order == input.order || event.order == -1"}
    steps = [{"id": "hold", "node": "flow.wait", "with": wait}]
    create(api, {"name": name, "steps": steps, "outputs": {"paid": "{{ steps.hold.output.order }}"}})
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda order: execute(api, name, {"order": order}, wait=0)["id"], range(1_000)))
    until(lambda: api.get(f"/runs/{runs[-1]}").json()["status"] == "waiting")
    for order in (0, 500, 998):
        began = time.monotonic()
        sent = api.post("/events", json={"name": f"{name}.paid", "payload": {"order": order}}).json()
        run = finished(api, runs[order])
        assert time.monotonic() - began < 1
        assert (run["outputs"], sent["woken"]) == ({"paid": order}, 1)
    began = time.monotonic()
    sent = api.post("/events", json={"name": f"{name}.paid", "payload": {"order": -1}}).json()
    assert sent["woken"] == 997
    waiting = {"workflow": name, "status": ["waiting", "running", "queued"], "limit": 1}
    until(lambda: not api.get("/runs", params=waiting).json()["items"])
    assert time.monotonic() - began < 3
    arrived = datetime.fromisoformat(
        api.get("/events", params={"name": f"{name}.paid"}).json()["items"][0]["received_at"]
    )
    ends = [datetime.fromisoformat(api.get(f"/runs/{run_id}").json()["finished_at"]) for run_id in runs[1:500:50]]
    assert max(end - arrived for end in ends) < timedelta(seconds=1)
