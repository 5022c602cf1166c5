"""One real server, with embedded stores, for all tests of this directory that do not stop or kill theirs."""

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.api.target import Target, target_server
from tests.server import RunningServer, running_server

API = "/api/v1"
_names = itertools.count()


@pytest.fixture(scope="session")
def server() -> Iterator[RunningServer]:
    with running_server() as running:
        yield running


@pytest.fixture(scope="session")
def target() -> Iterator[Target]:
    with target_server() as running:
        yield running


@pytest.fixture
def api(server: RunningServer) -> Iterator[httpx.Client]:
    """The admin's client; paths are below `/api/v1`."""
    with server.client() as client:
        client.base_url = httpx.URL(server.url + API)
        yield client


@pytest.fixture
def name() -> str:
    """A name that no other test has."""
    return f"w{next(_names)}_{time.monotonic_ns()}"


@pytest.fixture
def key_of(api: httpx.Client) -> Callable[[str], str]:
    """Makes a key with a role."""

    def make(role: str) -> str:
        made = api.post("/api-keys", json={"name": role, "role": role})
        assert made.status_code == 201, made.text
        return str(made.json()["key"])

    return make


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """The response is a problem document with that status."""
    assert response.status_code == status, (response.status_code, response.text[:500])
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["status"] == status
    assert all(isinstance(document[one], str) and document[one] for one in ("type", "title", "detail")), document
    return document


def finished(api: httpx.Client, run_id: str, seconds: float = 15.0) -> dict[str, Any]:
    """The run once it has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        run: dict[str, Any] = api.get(f"/runs/{run_id}").json()
        if run["status"] in ("completed", "failed", "cancelled"):
            return run
        time.sleep(0.02)
    raise AssertionError(f"run {run_id} is still {run['status']} after {seconds} s")


def one_step(
    name: str, node: str = "transform.map", with_: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    """A workflow with the step `only`, whose output is the workflow's `result`."""
    step = {"id": "only", "node": node, "with": with_ or {"value": "{{ input.x }}"}, **more}
    return {"name": name, "steps": [step], "outputs": {"result": "{{ steps.only.output }}"}}


def create(api: httpx.Client, spec: dict[str, Any]) -> dict[str, Any]:
    made = api.post("/workflows", json=spec)
    assert made.status_code == 201, made.text
    workflow: dict[str, Any] = made.json()
    return workflow


def execute(api: httpx.Client, workflow: str, input: Any = None, wait: float = 10, **more: Any) -> dict[str, Any]:
    """The run, after at most `wait` seconds."""
    answer = api.post(f"/workflows/{workflow}/execute", params={"wait": wait}, json={"input": input or {}, **more})
    assert answer.status_code in (200, 202), answer.text
    run: dict[str, Any] = answer.json()
    return run
