"""Triggers, webhooks and events over HTTP."""

import asyncio
import hashlib
import hmac
import time
import uuid
from typing import Any

import asyncpg
import httpx
import pytest

from tests.api.conftest import create, finished, one_step, problem
from tests.server import RunningServer

SECRET = "a-shared-secret"


def sign(body: bytes) -> dict[str, str]:
    return {"X-Reflux-Signature": "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()}


def with_trigger(api: httpx.Client, workflow: str, **trigger: Any) -> dict[str, Any]:
    """The one trigger of a new workflow of that name, which gives `x` of its input as `result`."""
    create(api, {**one_step(workflow), "triggers": [trigger]})
    return triggers_of(api, workflow)[0]


def triggers_of(api: httpx.Client, workflow: str) -> list[dict[str, Any]]:
    answer = api.get("/triggers", params={"workflow": workflow})
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def firings_of(api: httpx.Client, trigger: dict[str, Any]) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = api.get(f"/triggers/{trigger['id']}/firings").json()["items"]
    return items


# --- what there is ---------------------------------------------------------------------------------------------------


def test_triggers_follow_the_current_version(api: httpx.Client, name: str) -> None:
    cron = {"type": "cron", "name": "nightly", "schedule": "0 3 * * *", "timezone": "Europe/Berlin"}
    first = with_trigger(api, name, **cron)
    assert (first["type"], first["from_spec"], first["paused"]) == ("cron", True, False)
    assert first["config"] == cron
    assert first["next_at"]
    assert api.post(f"/triggers/{first['id']}/pause").json()["next_at"] is None
    create(api, {**one_step(name), "description": "new", "triggers": [cron, {"type": "manual"}]})
    assert {(one["name"], one["paused"]) for one in triggers_of(api, name)} == {("nightly", True), ("manual", False)}
    api.post(f"/workflows/{name}/publish", json={"version": 1})
    assert [one["id"] for one in triggers_of(api, name)] == [first["id"]]
    problem(api.delete(f"/triggers/{first['id']}"), 409)
    assert api.post(f"/triggers/{first['id']}/resume").json()["next_at"]
    assert api.delete(f"/workflows/{name}").status_code == 204
    problem(api.get(f"/triggers/{first['id']}"), 404)


def test_a_spec_with_wrong_triggers_is_refused(api: httpx.Client, name: str) -> None:
    cron = {"type": "cron", "schedule": "61 * * * *", "timezone": "Berlin"}
    wrong = [cron, {"type": "event", "name": "a", "match": "="}]
    found = problem(api.post("/workflows", json={**one_step(name), "triggers": wrong}), 422)
    assert {one["code"] for one in found["faults"]} == {"bad_schedule", "unknown_timezone", "bad_expression"}


def test_a_path_that_is_taken_is_a_conflict_and_nothing_is_stored(api: httpx.Client, name: str) -> None:
    with_trigger(api, name, type="webhook", path=f"{name}/a")
    other = {**one_step(f"{name}_other"), "triggers": [{"type": "webhook", "path": f"{name}/a"}]}
    assert name in problem(api.post("/workflows", json=other), 409)["detail"]
    problem(api.get(f"/workflows/{name}_other"), 404)


def test_beside_the_spec(api: httpx.Client, name: str) -> None:
    create(api, one_step(name))
    body = {"workflow": name, "type": "cron", "schedule": "@hourly", "timezone": "Europe/Berlin", "input": {"x": 1}}
    made = api.post("/triggers", json=body)
    assert made.status_code == 201, made.text
    trigger = made.json()
    assert not trigger["from_spec"]
    assert triggers_of(api, name) == [trigger]
    problem(api.post("/triggers", json=body), 409)
    times = api.get(f"/triggers/{trigger['id']}/preview", params={"count": 3}).json()["times"]
    assert len(times) == 3
    assert times[0] == trigger["next_at"]
    assert api.delete(f"/triggers/{trigger['id']}").status_code == 204
    assert triggers_of(api, name) == []


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"type": "cron", "schedule": "x"}, "$.schedule"),
        ({"type": "cron", "schedule": "@daily", "timezone": "Nowhere"}, "$.timezone"),
        ({"type": "cron", "schedule": "@daily", "missed": "maybe"}, "$.missed"),
        ({"type": "cron"}, "$.schedule"),
        ({"type": "webhook", "path": "/x"}, "$.path"),
        ({"type": "event"}, "$.event"),
        ({"type": "manual", "other": 1}, "$.other"),
        ({"type": "never"}, "$.type"),
    ],
)
def test_what_cannot_be_made(api: httpx.Client, name: str, body: dict[str, Any], path: str) -> None:
    create(api, one_step(name))
    found = problem(api.post("/triggers", json={**body, "workflow": name}), 422)
    assert [one["path"] for one in found["faults"]] == [path]


def test_only_editors_change_and_fire(api: httpx.Client, server: RunningServer, name: str, key_of: Any) -> None:
    trigger = with_trigger(api, name, type="manual")
    with server.client(key_of("viewer")) as viewer:
        viewer.base_url = api.base_url
        assert viewer.get("/triggers").status_code == 200
        for path in ("pause", "resume", "fire"):
            problem(viewer.post(f"/triggers/{trigger['id']}/{path}"), 403)
        problem(viewer.delete(f"/triggers/{trigger['id']}"), 403)
        problem(viewer.post("/triggers", json={"workflow": name, "type": "manual", "name": "m"}), 403)
        problem(viewer.post("/events", json={"name": "a"}), 403)


# --- firing ----------------------------------------------------------------------------------------------------------


def test_by_hand(api: httpx.Client, name: str) -> None:
    trigger = with_trigger(api, name, type="manual", input={"x": 1})
    headers = {"Idempotency-Key": f"{name}-fire"}
    fired = api.post(f"/triggers/{trigger['id']}/fire", json={"input": {"x": 5}}, headers=headers)
    assert fired.status_code == 202, fired.text
    again = api.post(f"/triggers/{trigger['id']}/fire", json={"input": {"x": 5}}, headers=headers)
    assert again.json()["run_id"] == fired.json()["run_id"]
    run = finished(api, fired.json()["run_id"])
    assert run["outputs"] == {"result": 5}
    assert run["context"] == {"trigger": "manual", "trigger_type": "manual"}
    assert finished(api, api.post(f"/triggers/{trigger['id']}/fire").json()["run_id"])["outputs"] == {"result": 1}
    assert [one["status"] for one in firings_of(api, trigger)] == ["started", "started"]


async def test_by_the_clock(api: httpx.Client, server: RunningServer, name: str) -> None:
    trigger = with_trigger(api, name, type="cron", schedule="* * * * *", input={"x": "{{ trigger.scheduled_for }}"})
    # Nobody waits for the next minute: the one that has begun was due, and nobody has fired it.
    connection = await asyncpg.connect(f"postgresql://postgres@/postgres?host={server.home}/pg")
    change = "UPDATE triggers SET next_at = date_trunc('minute', now()) WHERE id = $1 RETURNING next_at"
    due = await connection.fetchval(change, uuid.UUID(trigger["id"]))
    await connection.close()
    deadline = time.monotonic() + 10
    while not firings_of(api, trigger) and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    fired = firings_of(api, trigger)[-1]
    assert fired["scheduled_for"] == due.isoformat().replace("+00:00", "Z")
    assert finished(api, fired["run_id"])["outputs"] == {"result": fired["scheduled_for"]}
    api.post(f"/triggers/{trigger['id']}/pause")


def test_by_an_event(api: httpx.Client, name: str) -> None:
    rule = {"event": name, "match": "event.amount > 10", "input": {"x": "{{ event.amount }}"}}
    trigger = with_trigger(api, name, type="event", name="large", correlation="event.customer", **rule)
    sent = api.post("/events", json={"name": name, "payload": {"amount": 11, "customer": "ada"}, "dedupe_key": "k"})
    assert sent.status_code == 202, sent.text
    (run_id,) = sent.json()["started"]
    run = finished(api, run_id)
    assert (run["outputs"], run["unit_key"]) == ({"result": 11}, "ada")
    again = api.post("/events", json={"name": name, "payload": {"amount": 12}, "dedupe_key": "k"}).json()
    assert again == {"id": sent.json()["id"], "name": name, "duplicate": True, "started": [], "woken": 0}
    assert api.post("/events", json={"name": name, "payload": {"amount": 1}}).json()["started"] == []
    assert len(firings_of(api, trigger)) == 1
    assert len(api.get("/events", params={"name": name}).json()["items"]) == 2
    problem(api.post("/events", json={"name": "not a name"}), 422)


# --- webhooks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "/api/v1"])
def test_a_webhook_with_a_key_takes_any_body(api: httpx.Client, server: RunningServer, name: str, prefix: str) -> None:
    trigger = with_trigger(api, name, type="webhook", path=f"{name}/in")
    assert trigger["url"] == f"/webhooks/{name}/in"
    with server.client() as client:
        accepted = client.post(f"{prefix}/webhooks/{name}/in", json={"x": 3})
        assert accepted.status_code == 202, accepted.text
        assert finished(api, accepted.json()["run_id"])["outputs"] == {"result": 3}
        form = client.post(f"{prefix}/webhooks/{name}/in", data={"x": "a b"})
        assert finished(api, form.json()["run_id"])["outputs"] == {"result": "a b"}
        problem(
            client.post(f"{prefix}/webhooks/{name}/in", content=b"{", headers={"Content-Type": "application/json"}), 400
        )
        problem(client.post(f"{prefix}/webhooks/{name}/out"), 404)
        refused = client.put(f"{prefix}/webhooks/{name}/in", json={})
        problem(refused, 405)
        assert refused.headers["allow"] == "POST"
    with server.client("") as nobody:
        problem(nobody.post(f"{prefix}/webhooks/{name}/in", json={}), 401)


def test_a_signed_webhook_needs_no_key(api: httpx.Client, server: RunningServer, name: str) -> None:
    secret = f"S_{name}".upper()
    trigger = with_trigger(api, name, type="webhook", path=name, secret=secret, tolerance="1m")
    body = b'{"x": 1}'
    with server.client("") as client:
        problem(client.post(f"/webhooks/{name}", content=body, headers=sign(body)), 503)
        api.post("/secrets", json={"name": secret, "value": SECRET})
        assert client.post(f"/webhooks/{name}", content=body, headers=sign(body)).status_code == 202
        problem(client.post(f"/webhooks/{name}", content=body + b" ", headers=sign(body)), 401)
        problem(client.post(f"/webhooks/{name}", content=body), 401)
        stamp = str(int(time.time()) - 70)
        old = {**sign(stamp.encode() + b"." + body), "X-Reflux-Timestamp": stamp}
        problem(client.post(f"/webhooks/{name}", content=body, headers=old), 401)
    problem(
        httpx.post(f"{server.url}/webhooks/{name}", content=body, headers={"Authorization": f"Bearer {server.key}"}),
        401,
    )
    assert len(firings_of(api, trigger)) == 1
    assert SECRET not in server.log


def test_a_synchronous_answer(api: httpx.Client, server: RunningServer, name: str) -> None:
    with_trigger(api, name, type="webhook", path=name, answer="sync", request=True, methods=["POST", "GET"])
    with server.client() as client:
        answer = client.post(f"/webhooks/{name}", json={"x": {"deep": [1]}})
        assert (answer.status_code, answer.json()) == (200, {"result": {"deep": [1]}})
        run = finished(api, answer.headers["reflux-run-id"])
        assert run["input"]["_request"]["method"] == "POST"
        assert server.key not in str(run)
        failed = client.get(f"/webhooks/{name}", params={"page": "2"})
        assert "input.x" in problem(failed, 502)["detail"]
        assert finished(api, failed.headers["reflux-run-id"])["input"]["_request"]["query"] == {"page": "2"}


def test_a_synchronous_answer_that_takes_too_long(api: httpx.Client, server: RunningServer, name: str) -> None:
    slow = one_step(name, "flow.delay", {"seconds": 30})
    create(api, {**slow, "triggers": [{"type": "webhook", "path": name, "answer": "sync", "wait": "200ms"}]})
    with server.client() as client:
        answer = client.post(f"/webhooks/{name}", json={})
        assert answer.status_code == 202
        assert answer.json()["status"] in ("running", "waiting")
        api.post(f"/runs/{answer.json()['run_id']}/cancel", json={})


def test_a_delivery_that_is_sent_again(api: httpx.Client, server: RunningServer, name: str) -> None:
    trigger = with_trigger(api, name, type="webhook", path=name, answer="sync")
    with server.client() as client:
        first, again, other = (
            client.post(f"/webhooks/{name}", json={"x": 1}, headers={"X-GitHub-Delivery": one}) for one in "aab"
        )
    assert [one.status_code for one in (first, again, other)] == [200, 200, 200]
    assert again.headers["idempotency-replayed"] == "true"
    ids = [one.headers["reflux-run-id"] for one in (first, again, other)]
    assert ids[0] == ids[1] != ids[2]
    assert [one["status"] for one in firings_of(api, trigger)] == ["started", "duplicate", "started"]


def test_an_input_that_does_not_fit(api: httpx.Client, server: RunningServer, name: str) -> None:
    inputs = {"type": "object", "required": ["x"], "properties": {"x": {"type": "integer"}}}
    create(api, {**one_step(name), "inputs": inputs, "triggers": [{"type": "webhook", "path": name}]})
    with server.client() as client:
        found = problem(client.post(f"/webhooks/{name}", json={"x": "no"}), 422)
    assert found["faults"][0]["path"] == "$.input.x"
    (refused,) = firings_of(api, triggers_of(api, name)[0])
    assert (refused["status"], refused["run_id"]) == ("refused", None)


def test_a_paused_webhook(api: httpx.Client, server: RunningServer, name: str) -> None:
    trigger = with_trigger(api, name, type="webhook", path=name)
    api.post(f"/triggers/{trigger['id']}/pause")
    with server.client() as client:
        problem(client.post(f"/webhooks/{name}", json={"x": 1}), 409)
        api.post(f"/triggers/{trigger['id']}/resume")
        assert client.post(f"/webhooks/{name}", json={"x": 1}).status_code == 202
