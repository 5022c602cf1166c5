"""What can be asked of a run that is there already, over REST and with the command line."""

import json
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.conftest import API, create, execute, finished, problem
from tests.api.target import Target
from tests.api.test_shapes import documented, faults
from tests.server import REFLUX, RunningServer, clean_environment

NOBODY = "00000000-0000-0000-0000-000000000000"
OPERATIONS = [
    ("POST", "/runs/{run_id}/cancel", {}),
    ("POST", "/runs/{run_id}/pause", {}),
    ("POST", "/runs/{run_id}/resume", {}),
    ("POST", "/runs/{run_id}/restart", {}),
    ("POST", "/runs/{run_id}/signals/x", {}),
    ("PATCH", "/runs/{run_id}/graph", {"operations": [{"op": "remove_step", "id": "a"}]}),
    ("PUT", "/runs/{run_id}/breakpoints", {"steps": []}),
    ("POST", "/runs/{run_id}/continue", {}),
    ("POST", "/runs/{run_id}/steps/a/continue", {}),
    ("POST", "/runs/{run_id}/steps/a/redrive", {}),
    ("POST", "/runs/{run_id}/steps/a/approve", {}),
    ("POST", "/runs/{run_id}/steps/a/reject", {}),
    ("POST", "/runs/{run_id}/steps/a/submit", {"payload": 1}),
    ("POST", "/runs/{run_id}/steps/a/resolve", {"outcome": "failed"}),
]


class Ask:
    """Asks, and checks that each answer has its published shape."""

    def __init__(self, client: httpx.Client, document: dict[str, Any]) -> None:
        self._client = client
        self._document = document
        self._places = [(place, re.compile(re.sub(r"\{\w+\}", "[^/]+", place[1]))) for place in documented(document)]

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> dict[str, Any]:
        answer = self._client.request(method, path, json=body, headers=headers)
        assert answer.is_success, (method, path, answer.status_code, answer.text[:2000])
        shape = next(
            place
            for place, pattern in self._places
            if place[0] == method and place[2] == answer.status_code and pattern.fullmatch(API + path)
        )
        assert not faults(self._document, shape, answer.json())
        found: dict[str, Any] = answer.json()
        if "steps" in found:
            assert (answer.status_code == 200) == (found["status"] in ("completed", "failed", "cancelled")) or (
                method == "GET"
            )
        return found

    def until(self, run_id: str, true: Callable[[dict[str, Any]], bool], seconds: float = 10) -> dict[str, Any]:
        """The run, once it is so."""
        deadline = time.monotonic() + seconds
        while True:
            run = self("GET", f"/runs/{run_id}")
            if true(run):
                return run
            assert time.monotonic() < deadline, run
            time.sleep(0.02)


@pytest.fixture(scope="module")
def document(server: RunningServer) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{server.url}{API}/openapi.json", trust_env=False).json()
    return found


@pytest.fixture
def ask(api: httpx.Client, document: dict[str, Any]) -> Ask:
    return Ask(api, document)


def at(run: dict[str, Any], step_id: str) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in run["steps"] if one["id"] == step_id)
    return found


def reason(run: dict[str, Any], step_id: str) -> str | None:
    found: str | None = at(run, step_id).get("waiting_for", {}).get("reason")
    return found


def mapped(step_id: str, value: Any = 1, **more: Any) -> dict[str, Any]:
    return {"id": step_id, "node": "transform.map", "with": {"value": value}, **more}


def waiting(step_id: str = "hold", **with_: Any) -> dict[str, Any]:
    return {"id": step_id, "node": "flow.wait", "with": with_ or {"event": "go"}}


def held(name: str, *steps: dict[str, Any]) -> dict[str, Any]:
    """`hold` waits for the signal `go`; then come the steps."""
    last = steps[-1]["id"] if steps else "hold"
    return {"name": name, "steps": [waiting(), *steps], "outputs": {"x": f"{{{{ steps.{last}.output }}}}"}}


def started(api: httpx.Client, ask: Ask, spec: dict[str, Any], step_id: str = "hold", why: str = "event") -> str:
    """A run whose step waits for something."""
    create(api, spec)
    run_id: str = execute(api, spec["name"], {"n": 1}, wait=0)["id"]
    ask.until(run_id, lambda run: reason(run, step_id) == why)
    return run_id


class TestPause:
    def test_nothing_starts_until_the_run_is_resumed(self, api: httpx.Client, ask: Ask, name: str) -> None:
        run_id = started(api, ask, held(name, mapped("after", "{{ steps.hold.output.n }}")))
        assert ask("GET", f"/runs/{run_id}")["status"] == "waiting"
        paused = ask("POST", f"/runs/{run_id}/pause", {"reason": "an outage"})
        assert (paused["status"], paused["paused"], paused["pause_reason"]) == ("paused", True, "an outage")
        assert problem(api.post(f"/runs/{run_id}/pause", json={}), 409)
        ask("POST", f"/runs/{run_id}/signals/go", {"payload": {"n": 7}})
        run = ask("GET", f"/runs/{run_id}")
        assert at(run, "after")["status"] == "queued"
        assert at(run, "after")["waiting_for"]["reason"] == "paused"
        resumed = ask("POST", f"/runs/{run_id}/resume")
        assert not resumed["paused"]
        assert finished(api, run_id)["outputs"] == {"x": 7}
        problem(api.post(f"/runs/{run_id}/resume"), 409)

    def test_a_paused_run_can_be_cancelled(self, api: httpx.Client, ask: Ask, name: str) -> None:
        run_id = started(api, ask, held(name))
        ask("POST", f"/runs/{run_id}/pause")
        run = ask("POST", f"/runs/{run_id}/cancel", {"reason": "enough"})
        assert (run["status"], run["cancel_reason"]) == ("cancelled", "enough")


class TestBreakpoints:
    def test_stop_edit_step_continue(self, api: httpx.Client, ask: Ask, name: str) -> None:
        steps = [mapped("a", "{{ steps.hold.output }}"), mapped("b", "{{ steps.a.output }}"), mapped("c", needs=["b"])]
        run_id = started(api, ask, held(name, *steps))
        run = ask("PUT", f"/runs/{run_id}/breakpoints", {"steps": ["a"]})
        assert run["breakpoints"] == ["a"]
        ask("POST", f"/runs/{run_id}/signals/go", {"payload": 5})
        run = ask.until(run_id, lambda run: reason(run, "a") == "breakpoint")
        assert at(run, "a")["waiting_for"]["input"] == {"value": 5}
        problem(api.post(f"/runs/{run_id}/steps/b/continue", json={}), 409)
        ask("POST", f"/runs/{run_id}/steps/a/continue", {"with": {"value": 6}, "mode": "step"})
        run = ask.until(run_id, lambda run: reason(run, "b") == "breakpoint")
        assert at(run, "a")["output"] == 6
        ask("POST", f"/runs/{run_id}/continue")
        run = finished(api, run_id)
        assert (run["status"], at(run, "b")["output"]) == ("completed", 6)

    def test_unknown_steps(self, api: httpx.Client, ask: Ask, name: str) -> None:
        run_id = started(api, ask, held(name))
        refused = problem(api.put(f"/runs/{run_id}/breakpoints", json={"steps": ["hold", "hodl"]}), 422)
        assert [(one["path"], one["suggestion"]) for one in refused["faults"]] == [("$.steps[1]", "hold")]
        problem(api.post(f"/runs/{run_id}/steps/nobody/continue", json={}), 404)
        ask("POST", f"/runs/{run_id}/cancel")


class TestPeople:
    def test_approvals_ask_for_a_role(
        self, api: httpx.Client, ask: Ask, server: RunningServer, key_of: Callable[[str], str], name: str
    ) -> None:
        spec = {
            "name": name,
            "steps": [waiting("ask", approval=True, message="Is it right?")],
            "outputs": {"x": "{{ steps.ask.output }}"},
        }
        run_id = started(api, ask, spec, "ask", "approval")
        shown = at(ask("GET", f"/runs/{run_id}"), "ask")["waiting_for"]
        assert (shown["role"], shown["detail"]) == ("approver", "Is it right?")
        path = f"{API}/runs/{run_id}/steps/ask"
        with server.client(key_of("editor")) as editor, server.client(key_of("approver")) as approver:
            problem(editor.post(f"{path}/approve", json={}), 403)
            problem(editor.post(f"{path}/reject", json={}), 403)
            problem(editor.post(f"{path}/submit", json={"payload": {"approved": True}}), 409)
            problem(approver.post(f"{path}/submit", json={"payload": {"approved": True}}), 409)
            assert approver.post(f"{path}/approve", json={"comment": "fine"}).status_code in (200, 202)
        output = finished(api, run_id)["outputs"]["x"]
        assert (output["approved"], output["by"], output["comment"]) == (True, "approver", "fine")

    def test_a_rejection_fails_the_step(self, api: httpx.Client, ask: Ask, name: str) -> None:
        spec = {"name": name, "steps": [waiting("ask", approval=True)]}
        run_id = started(api, ask, spec, "ask", "approval")
        ask("POST", f"/runs/{run_id}/steps/ask/reject", {"comment": "too dear"})
        error = finished(api, run_id)["error"]
        assert error["class"] == "policy"
        assert "too dear" in error["message"]

    def test_forms(self, api: httpx.Client, ask: Ask, name: str) -> None:
        form = {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}}
        spec = {"name": name, "steps": [waiting("ask", form=form)], "outputs": {"x": "{{ steps.ask.output.city }}"}}
        run_id = started(api, ask, spec, "ask", "form")
        assert at(ask("GET", f"/runs/{run_id}"), "ask")["waiting_for"]["form"] == form
        refused = problem(api.post(f"/runs/{run_id}/steps/ask/submit", json={"payload": {"city": 7}}), 422)
        assert "city" in refused["faults"][0]["path"]
        problem(api.post(f"/runs/{run_id}/steps/ask/approve", json={}), 409)
        ask("POST", f"/runs/{run_id}/steps/ask/submit", {"payload": {"city": "Köln"}})
        assert finished(api, run_id)["outputs"] == {"x": "Köln"}


class TestGraph:
    def test_steps_that_have_not_started_change(self, api: httpx.Client, ask: Ask, name: str) -> None:
        run_id = started(api, ask, held(name, mapped("a", 1, needs=["hold"]), mapped("b", "{{ steps.a.output }}")))
        ask(
            "PATCH",
            f"/runs/{run_id}/graph",
            {
                "operations": [
                    {"op": "add_step", "step": mapped("n", "{{ steps.hold.output }}"), "before": ["a"]},
                    {"op": "update_params", "id": "a", "with": {"value": "{{ steps.n.output + 1 }}"}},
                ]
            },
        )
        ask("POST", f"/runs/{run_id}/signals/go", {"payload": 41})
        run = finished(api, run_id)
        assert run["outputs"] == {"x": 42}
        assert [one["id"] for one in run["steps"]] == ["hold", "a", "b", "n"]
        assert at(run, "n")["node_version"] == "1.0.0"

    def test_all_or_nothing(self, api: httpx.Client, ask: Ask, name: str) -> None:
        run_id = started(api, ask, held(name, mapped("a", needs=["hold"])))
        operations = [
            {"op": "add_step", "step": mapped("n", "{{ steps.nobody.output }}", needs=["hold"])},
            {"op": "update_params", "id": "a", "with": {"valeu": 1}},
        ]
        refused = problem(api.patch(f"/runs/{run_id}/graph", json={"operations": operations}), 422)
        assert [one["path"] for one in refused["faults"]] == [
            "$.operations[1].with.valeu",
            "$.operations[0].step.with.value",
        ]
        refused = problem(
            api.patch(f"/runs/{run_id}/graph", json={"operations": [{"op": "remove_step", "id": "hold"}]}), 422
        )
        assert [one["code"] for one in refused["faults"]] == ["step_started"]
        assert len(ask("GET", f"/runs/{run_id}")["steps"]) == 2
        ask("POST", f"/runs/{run_id}/signals/go")
        assert finished(api, run_id)["status"] == "completed"

    def test_a_removed_step_is_gone(self, api: httpx.Client, ask: Ask, name: str) -> None:
        run_id = started(api, ask, held(name, mapped("a", needs=["hold"]), mapped("b", 2, needs=["a"])))
        run = ask("PATCH", f"/runs/{run_id}/graph", {"operations": [{"op": "remove_step", "id": "a"}]})
        assert [one["id"] for one in run["steps"]] == ["hold", "b"]
        ask("POST", f"/runs/{run_id}/signals/go")
        assert finished(api, run_id)["outputs"] == {"x": 2}


class TestAgain:
    def spec(self, name: str, target: Target) -> dict[str, Any]:
        def call(step_id: str, **more: Any) -> dict[str, Any]:
            with_ = {"url": f"{target.url}/data/{name}_{step_id}", "query": {"value": "{{ input.n }}"}}
            return {"id": step_id, "node": "http.request", "with": with_, **more}

        steps = [
            call("first"),
            call("second", needs=["first"]),
            call("aside"),
            mapped("sum", "{{ steps.second.output.body.value + steps.aside.output.body.value }}"),
        ]
        return {"name": name, "steps": steps, "outputs": {"sum": "{{ steps.sum.output }}"}}

    def calls(self, target: Target, name: str) -> tuple[int, ...]:
        return tuple(len(target.to(f"/data/{name}_{one}")) for one in ("first", "second", "aside"))

    def test_redrive_with_downstream(self, api: httpx.Client, ask: Ask, target: Target, name: str) -> None:
        create(api, self.spec(name, target))
        run_id = execute(api, name, {"n": 2})["id"]
        assert self.calls(target, name) == (1, 1, 1)
        ask("POST", f"/runs/{run_id}/steps/second/redrive", {"with": {"query": {"value": "9"}}})
        run = ask.until(run_id, lambda run: run["status"] == "completed" and run["outputs"] == {"sum": 11})
        assert self.calls(target, name) == (1, 2, 1)
        assert at(run, "second")["attempts"] == 2
        types = [one["type"] for one in ask("GET", f"/runs/{run_id}/events")["items"]]
        assert types.count("run_completed") == 2
        assert "step_redriven" in types

    def test_redrive_alone(self, api: httpx.Client, ask: Ask, target: Target, name: str) -> None:
        create(api, self.spec(name, target))
        run_id = execute(api, name, {"n": 2})["id"]
        ask("POST", f"/runs/{run_id}/steps/first/redrive", {"downstream": False})
        ask.until(run_id, lambda run: run["status"] == "completed" and at(run, "first")["attempts"] == 2)
        assert self.calls(target, name) == (2, 1, 1)
        problem(api.post(f"/runs/{run_id}/steps/nobody/redrive", json={}), 404)

    def test_restart_from_a_step(self, api: httpx.Client, ask: Ask, target: Target, name: str) -> None:
        create(api, self.spec(name, target))
        old = execute(api, name, {"n": 2}, context={"vip": "yes"}, unit_key="u")
        new = ask("POST", f"/runs/{old['id']}/restart", {"from_step": "second"})
        assert new["id"] != old["id"]
        assert new["restarted_from"] == old["id"]
        run = finished(api, new["id"])
        assert (run["outputs"], run["context"], run["unit_key"]) == ({"sum": 4}, {"vip": "yes"}, "u")
        assert self.calls(target, name) == (1, 2, 1)
        assert at(run, "first")["output"] == at(finished(api, old["id"]), "first")["output"]

    def test_restart_anew(self, api: httpx.Client, ask: Ask, target: Target, name: str) -> None:
        create(api, self.spec(name, target))
        old = execute(api, name, {"n": 2})["id"]
        headers = {"Idempotency-Key": f"restart-{name}"}
        first = ask("POST", f"/runs/{old}/restart", {"input": {"n": 3}}, **headers)
        again = ask("POST", f"/runs/{old}/restart", {"input": {"n": 3}}, **headers)
        assert first["id"] == again["id"]
        assert finished(api, first["id"])["outputs"] == {"sum": 6}
        assert self.calls(target, name) == (2, 2, 2)

    def test_restart_with_another_version(self, api: httpx.Client, ask: Ask, name: str) -> None:
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
        create(
            api, {"name": name, "inputs": schema, "steps": [mapped("a", 1)], "outputs": {"x": "{{ steps.a.output }}"}}
        )
        old = execute(api, name, {"n": 1})["id"]
        create(
            api, {"name": name, "inputs": schema, "steps": [mapped("a", 2)], "outputs": {"x": "{{ steps.a.output }}"}}
        )
        same = finished(api, ask("POST", f"/runs/{old}/restart")["id"])
        current = finished(api, ask("POST", f"/runs/{old}/restart", {"version": "current"})["id"])
        assert [(one["workflow_version"], one["outputs"]) for one in (same, current)] == [(1, {"x": 1}), (2, {"x": 2})]
        problem(api.post(f"/runs/{old}/restart", json={"input": {"n": "x"}}), 422)
        refused = problem(api.post(f"/runs/{old}/restart", json={"from_step": "aa"}), 422)
        assert refused["faults"][0]["path"] == "$.from_step"


class TestBulk:
    def test_each_run_has_its_own_outcome(self, api: httpx.Client, ask: Ask, name: str) -> None:
        create(api, held(name))
        runs = [execute(api, name, wait=0)["id"] for _ in range(3)]
        ask("POST", f"/runs/{runs[0]}/cancel")
        done = ask("POST", "/runs/bulk", {"action": "pause", "run_ids": [*runs, NOBODY]})["items"]
        assert [(one["run_id"], one["ok"]) for one in done] == [
            (runs[0], False),
            (runs[1], True),
            (runs[2], True),
            (NOBODY, False),
        ]
        assert [one["error"]["status"] for one in done if not one["ok"]] == [409, 404]
        resumed = ask("POST", "/runs/bulk", {"action": "resume", "filter": {"workflow": name}})
        assert [one["run_id"] for one in resumed["items"]] == [runs[2], runs[1]]
        assert resumed["next_cursor"] is None
        ask("POST", "/runs/bulk", {"action": "cancel", "filter": {"workflow": name}, "reason": "clean up"})
        assert [finished(api, one)["status"] for one in runs] == ["cancelled"] * 3
        body = {"action": "restart", "run_ids": runs[1:]}
        headers = {"Idempotency-Key": f"bulk-{name}"}
        restarted = ask("POST", "/runs/bulk", body, **headers)
        assert restarted == ask("POST", "/runs/bulk", body, **headers)
        for old, one in zip(runs[1:], restarted["items"], strict=True):
            assert ask("GET", f"/runs/{one['restarted_as']}")["restarted_from"] == old
        ask("POST", "/runs/bulk", {"action": "cancel", "filter": {"workflow": name}})

    @pytest.mark.parametrize(
        "body",
        [
            {"action": "cancel"},
            {"action": "cancel", "run_ids": [NOBODY], "filter": {}},
            {"action": "cancel", "run_ids": []},
            {"action": "cancel", "run_ids": [NOBODY] * 101},
            {"action": "delete", "run_ids": [NOBODY]},
            {"action": "cancel", "filter": {"from": "soon"}},
        ],
    )
    def test_what_cannot_be_asked(self, api: httpx.Client, body: dict[str, Any]) -> None:
        problem(api.post("/runs/bulk", json=body), 422)


def test_roles_places_and_the_audit_log(
    api: httpx.Client, ask: Ask, server: RunningServer, key_of: Callable[[str], str], name: str
) -> None:
    with server.client(key_of("viewer")) as viewer:
        for method, path, body in [*OPERATIONS, ("POST", "/runs/bulk", {"action": "cancel", "run_ids": [NOBODY]})]:
            problem(viewer.request(method, API + path.format(run_id=NOBODY), json=body), 403)
    for method, path, body in OPERATIONS:
        problem(api.request(method, path.format(run_id=NOBODY), json=body), 404)
    run_id = started(api, ask, held(name, mapped("a", needs=["hold"])))
    ask(
        "PATCH", f"/runs/{run_id}/graph", {"operations": [{"op": "update_params", "id": "a", "with": {"value": "s3c"}}]}
    )
    ask("POST", f"/runs/{run_id}/pause", {"reason": "lunch"})
    ask("POST", f"/runs/{run_id}/cancel")
    acts = api.get("/audit", params={"target": run_id}).json()["items"]
    assert [one["action"] for one in acts] == ["run.cancel", "run.pause", "run.patch"]
    assert acts[1]["detail"] == {"reason": "lunch"}
    assert "s3c" not in json.dumps(acts)
    for method, path, body in OPERATIONS:
        if not path.endswith(("/restart", "/redrive")):
            problem(api.request(method, path.format(run_id=run_id), json=body), 409)


def test_one_key_is_one_signal(api: httpx.Client, ask: Ask, name: str) -> None:
    steps = [waiting("one"), {**waiting("two"), "needs": ["one"]}]
    run_id = started(api, ask, {"name": name, "steps": steps}, "one")
    for _ in range(2):
        ask("POST", f"/runs/{run_id}/signals/go", **{"Idempotency-Key": f"signal-{name}"})
    run = ask.until(run_id, lambda run: reason(run, "two") == "event")
    assert at(run, "one")["status"] == "completed"
    ask("POST", f"/runs/{run_id}/signals/go")
    assert finished(api, run_id)["status"] == "completed"


class _Model(BaseHTTPRequestHandler):
    """Answers with a plan, in the protocol of OpenAI."""

    plan: dict[str, Any]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        message = {"role": "assistant", "content": json.dumps(self.plan)}
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        raw = json.dumps(
            {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)


@pytest.fixture
def model() -> Iterator[str]:
    _Model.plan = {
        "steps": [
            mapped("double", "{{ input.n * 2 }}"),
            mapped("text", "It is {{ steps.double.output }}."),
        ],
        "summary": "Doubles it.",
    }
    serving = ThreadingHTTPServer(("127.0.0.1", 0), _Model)
    thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{serving.server_address[1]}/v1"
    serving.shutdown()
    serving.server_close()
    thread.join()


class TestPlans:
    def spec(self, name: str, model: str, **more: Any) -> dict[str, Any]:
        with_ = {
            "goal": "Double it.", "provider": "openai", "model": "m", "base_url": model,
            "allowed": ["transform.map"], "price": {"input": 100_000, "output": 0}, **more,
        }  # fmt: skip
        steps = [
            {"id": "plan", "node": "ai.plan", "with": with_},
            mapped("after", "{{ steps.plan.output.plan.summary }}"),
        ]
        return {"name": name, "steps": steps, "outputs": {"x": "{{ steps.after.output }}"}}

    def test_a_plan_is_approved_and_carried_out(self, api: httpx.Client, ask: Ask, model: str, name: str) -> None:
        run_id = started(api, ask, self.spec(name, model), "plan", "approval")
        run = ask("GET", f"/runs/{run_id}")
        assert at(run, "plan")["waiting_for"]["plan"]["plan"] == _Model.plan
        assert len(run["steps"]) == 2
        ask("POST", f"/runs/{run_id}/steps/plan/approve")
        run = finished(api, run_id)
        assert run["outputs"] == {"x": "Doubles it."}, run
        assert at(run, "plan__text")["output"] == "It is 2."
        assert at(run, "after")["started_at"] >= at(run, "plan__text")["finished_at"]
        assert run["cost_usd"] == pytest.approx(1.0)

    def test_a_plan_is_rejected(self, api: httpx.Client, ask: Ask, model: str, name: str) -> None:
        run_id = started(api, ask, self.spec(name, model), "plan", "approval")
        ask("POST", f"/runs/{run_id}/steps/plan/reject", {"comment": "no"})
        run = finished(api, run_id)
        assert (run["status"], run["error"]["class"], len(run["steps"])) == ("failed", "policy", 2)

    def test_a_plan_without_review(self, api: httpx.Client, model: str, name: str) -> None:
        create(api, self.spec(name, model, review=False))
        run = execute(api, name, {"n": 21})
        assert at(run, "plan__text")["output"] == "It is 42."


def test_the_command_line(server: RunningServer, api: httpx.Client, ask: Ask, name: str, tmp_path: Path) -> None:
    environment = clean_environment({"REFLUX_URL": server.url, "REFLUX_API_KEY": server.key, "NO_PROXY": "127.0.0.1"})

    def reflux(*arguments: str, code: int = 0) -> Any:
        done = subprocess.run(
            [str(REFLUX), "runs", *arguments, "--json"],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        return json.loads(done.stdout)

    last = {**waiting("ask", approval=True), "needs": ["a"]}
    run_id = started(api, ask, held(name, mapped("a", needs=["hold"]), last))
    assert reflux("pause", run_id, "--reason", "lunch")["paused"]
    assert not reflux("resume", run_id)["paused"]
    (tmp_path / "change.yaml").write_text(
        "- {op: update_params, id: ask, with: {message: Well?}}\n"
        "- op: add_step\n  step: {id: n, node: transform.map, with: {value: 2}, needs: [hold]}\n  before: [ask]\n"
    )
    assert len(reflux("patch", run_id, "change.yaml")["steps"]) == 4
    inline = '[{"op": "update_params", "id": "a", "with": {"value": 8}}]'
    reflux("patch", run_id, inline)
    assert (
        reflux("patch", run_id, '[{"op": "remove_step", "id": "hold"}]', code=2)["faults"][0]["code"] == "step_started"
    )
    assert reflux("breakpoints", run_id, "a")["breakpoints"] == ["a"]
    reflux("signal", run_id, "go", "--payload", '{"x": 1}')
    ask.until(run_id, lambda run: reason(run, "a") == "breakpoint")
    reflux("continue", run_id, "--step", "a", "--with", '{"value": 9}')
    ask.until(run_id, lambda run: at(run, "a").get("output") == 9)
    ask.until(run_id, lambda run: reason(run, "ask") == "approval")
    reflux("reject", run_id, "ask", "--comment", "no")
    assert finished(api, run_id)["status"] == "failed"
    reflux("redrive", run_id, "ask")
    ask.until(run_id, lambda run: reason(run, "ask") == "approval")
    reflux("approve", run_id, "ask")
    assert finished(api, run_id)["status"] == "completed"
    new = reflux("restart", run_id, "--from-step", "ask")
    assert new["restarted_from"] == run_id
    done = reflux("bulk", "cancel", "--workflow", name)["items"]
    assert [(one["run_id"], one["ok"]) for one in done] == [(new["id"], True)]
    assert reflux("bulk", "cancel", "--run", new["id"], code=1)["items"][0]["error"]["status"] == 409
    assert "say which runs" in reflux("bulk", "cancel", code=2)["detail"]
