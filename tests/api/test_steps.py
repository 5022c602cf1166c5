"""Steps against servers that misbehave: everything ends in time and says why."""

import time
from typing import Any

import httpx
import pytest

from tests.api.conftest import create, execute, one_step
from tests.api.target import Target


def run_of(api: httpx.Client, name: str, with_: dict[str, Any], **more: Any) -> dict[str, Any]:
    create(api, one_step(name, "http.request", with_, **more))
    return execute(api, name, wait=20)


@pytest.mark.parametrize("kind", ["hang", "trickle"])
@pytest.mark.parametrize("timeout", ["300ms", "1s"])
def test_a_timeout_ends_the_step(api: httpx.Client, target: Target, name: str, kind: str, timeout: str) -> None:
    begun = time.monotonic()
    run = run_of(api, name, {"url": f"{target.url}/{kind}/{name}"}, timeout=timeout, retry={"max_attempts": 1})
    assert time.monotonic() - begun < (0.3 if timeout == "300ms" else 1) + 1
    assert run["status"] == "failed"
    assert run["error"]["class"] == "timeout"
    trace = api.get("/traces", params={"run_id": run["id"]}).json()["items"][0]
    assert (trace["status"], trace["error_class"]) == ("timeout", "timeout")


def test_retry_after_is_honoured(api: httpx.Client, target: Target, name: str) -> None:
    retry = {"max_attempts": 3, "initial": "10ms", "jitter": False}
    run = run_of(api, name, {"url": f"{target.url}/busy/{name}"}, retry=retry)
    assert run["status"] == "completed", run
    first, second = target.to(f"/busy/{name}")
    assert 0.95 < second.at - first.at < 3
    traces = api.get("/traces", params={"run_id": run["id"]}).json()["items"]
    assert sorted((one["attempt"], one["status"]) for one in traces) == [(1, "error"), (2, "ok")]
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"] == f"{run['id']}:only"


def test_redirects(api: httpx.Client, target: Target, name: str) -> None:
    to_data = {"url": f"{target.url}/redirect/{name}", "query": {"to": f"/data/{name}"}}
    assert run_of(api, name, to_data)["outputs"]["result"]["status"] == 200
    for place in ("http://169.254.169.254/latest/meta-data", "http://10.0.0.1/", "file:///etc/passwd"):
        run = run_of(api, name, {"url": f"{target.url}/redirect/{name}", "query": {"to": place}})
        assert (run["status"], run["error"]["class"]) == ("failed", "policy"), run["error"]
    loop = {"url": f"{target.url}/redirect/{name}?to=/redirect/{name}%3Fto=x", "max_redirects": 0}
    assert run_of(api, name, loop)["error"]["class"] == "policy"


def test_a_body_over_the_limit(api: httpx.Client, target: Target, name: str) -> None:
    call = {"url": f"{target.url}/big/{name}", "query": {"size": 2_000}, "max_response_bytes": 1_000}
    run = run_of(api, name, call)
    assert (run["status"], run["error"]["class"]) == ("failed", "policy")
    assert "1000" in run["error"]["message"]
    fits = run_of(api, name, {**call, "max_response_bytes": 3_000})
    assert len(fits["outputs"]["result"]["body"]) == 2_000


def test_a_large_answer_is_kept_whole(api: httpx.Client, target: Target, name: str) -> None:
    run = run_of(api, name, {"url": f"{target.url}/big/{name}", "query": {"size": 900_000}})
    assert run["status"] == "completed", run["error"]
    assert len(api.get(f"/runs/{run['id']}").json()["outputs"]["result"]["body"]) == 900_000


def test_an_answer_nested_too_deep(api: httpx.Client, target: Target, name: str) -> None:
    run = run_of(api, name, {"url": f"{target.url}/deep/{name}"})
    assert (run["status"], run["error"]["class"]) == ("failed", "decode")


@pytest.mark.parametrize("url", ["http://169.254.169.254/", "http://10.1.2.3/", "http://[fd00:ec2::254]/", "ftp://x/"])
def test_places_that_are_not_to_be_reached(api: httpx.Client, name: str, url: str) -> None:
    run = run_of(api, name, {"url": url})
    assert (run["status"], run["error"]["class"]) in (("failed", "policy"), ("failed", "invalid_input"))
    assert run["steps"][0]["attempts"] == 1


def test_a_deadline_ends_the_run(api: httpx.Client, target: Target, name: str) -> None:
    spec = one_step(name, "http.request", {"url": f"{target.url}/hang/{name}"})
    create(api, {**spec, "policies": {"max_duration": "500ms"}})
    begun = time.monotonic()
    run = execute(api, name, wait=10)
    assert time.monotonic() - begun < 1.5
    assert (run["status"], run["error"]["class"]) == ("failed", "timeout")
