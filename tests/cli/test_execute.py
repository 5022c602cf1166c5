"""`reflux execute` and `reflux runs`: what is printed, and the exit codes."""

import json
import socket
import time
from pathlib import Path

import pytest

from docs.examples.shop import Shop
from tests.cli.conftest import Reflux
from tests.server import RunningServer, running_server

GREET = """
name: greet
inputs: {type: object, required: [name], properties: {name: {type: string}}}
steps:
  - {id: hello, node: transform.map, with: {value: "Hello {{ input.name }}"}}
outputs: {text: "{{ steps.hello.output }}"}
"""
FAIL = 'name: fail\nsteps: [{id: divide, node: transform.map, with: {value: "{{ 1 / input.by }}"}}]\n'
NAP = "name: nap\nsteps: [{id: nap, node: flow.delay, with: {seconds: 30}}]\n"


@pytest.fixture
def greet(tmp_path: Path) -> str:
    (tmp_path / "greet.yaml").write_text(GREET)
    return "greet.yaml"


def test_a_file_is_stored_and_run(reflux: Reflux, greet: str) -> None:
    done = reflux("execute", greet, "--input", '{"name": "Ada"}', "--context", "tier=gold")
    assert done.code == 0
    assert '"text": "Hello Ada"' in done.out
    assert "hello" in done.err
    assert "completed" in done.err
    assert "1 attempt" in done.err
    # By name now, with the input from a file and a field on top of it.
    (reflux.directory / "input.json").write_text('{"name": "Bob", "x": 1}')
    named = reflux("execute", "greet", "--input", "@input.json", "--input-field", "x=[2]", "--json")
    assert named.err == ""
    assert named.json["status"] == "completed"
    assert named.json["input"] == {"name": "Bob", "x": [2]}
    piped = reflux("execute", "greet", "--input", "-", "--json", stdin='{"name": "Eve"}')
    assert piped.json["outputs"] == {"text": "Hello Eve"}


def test_json_with_line_ends_that_only_unicode_knows(reflux: Reflux, greet: str) -> None:
    (reflux.directory / "input.json").write_text(json.dumps({"name": "a\u2028b\u0085c"}), encoding="utf-8")
    done = reflux("execute", greet, "--input", "@input.json", "--json")
    assert done.json["outputs"] == {"text": "Hello a\u2028b\u0085c"}


def test_a_failed_run_leaves_with_1(reflux: Reflux, tmp_path: Path) -> None:
    (tmp_path / "fail.yaml").write_text(FAIL)
    done = reflux("execute", "fail.yaml", "--input", '{"by": 0}')
    assert done.code == 1
    assert "step divide: expression: " in done.out
    assert "division by zero" in done.out
    as_json = reflux("execute", "fail", "--input", '{"by": 0}', "--json")
    assert as_json.code == 1
    assert as_json.json["error"]["class"] == "expression"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("execute", "greet.yaml", "--input", "{"), "--input is not valid JSON"),
        (("execute", "greet.yaml", "--input-field", "name"), "not of the form name=value"),
        (("execute", "greet.yaml", "--input", "[]", "--input-field", "a=b"), "--input is none"),
        (("execute", "greet.yaml", "--input", "{}"), "does not fit the workflow"),
        (("execute", "missing.yaml"), "cannot read missing.yaml"),
        (("execute", "no_such_workflow"), "no_such_workflow"),
        (("runs", "show", "no-id"), "run_id"),
        (("runs", "show", "00000000-0000-0000-0000-000000000000"), "there is no run"),
    ],
)
def test_what_is_wrong_leaves_with_2(reflux: Reflux, greet: str, arguments: tuple[str, ...], sentence: str) -> None:
    done = reflux(*arguments)
    assert done.code == 2
    assert sentence in done.err
    assert done.out == ""


def test_faults_of_a_workflow_are_a_table_or_a_problem(reflux: Reflux, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(GREET.replace("transform.map", "transform.mpa"))
    done = reflux("execute", "bad.yaml")
    assert done.code == 2
    assert "$.steps[0].node" in done.err
    assert "transform.map" in done.err
    as_json = reflux("execute", "bad.yaml", "--json")
    assert as_json.code == 2
    assert as_json.json["faults"][0]["suggestion"] == "transform.map"


def test_no_server_leaves_with_3(offline: Reflux, greet: str) -> None:
    done = offline("execute", greet, "--json")
    assert done.code == 3
    assert "no REFLUX server answers at http://127.0.0.1:9" in done.err
    assert done.json["title"] == "Error"


def test_a_run_that_goes_on_leaves_with_4_and_can_be_cancelled(reflux: Reflux, tmp_path: Path) -> None:
    (tmp_path / "nap.yaml").write_text(NAP)
    started = time.monotonic()
    done = reflux("execute", "nap.yaml", "--wait", "0.5", "--json")
    assert time.monotonic() - started < 10
    assert done.code == 4
    assert done.json["status"] == "waiting"
    run = done.json["id"]
    assert run in reflux("runs", "--status", "waiting", "--workflow", "nap").out
    watching = reflux.start("runs", "watch", run)
    cancelled = reflux("runs", "cancel", run, "--reason", "enough")
    assert cancelled.code == 0
    out, err = watching.communicate(timeout=30)
    assert watching.returncode == 1
    assert b"cancelled" in out
    assert b"Traceback" not in err
    again = reflux("runs", "cancel", run)
    assert again.code == 2
    assert "ended already" in again.err


def test_runs_are_listed_shown_and_exported(reflux: Reflux, greet: str) -> None:
    run = reflux("execute", greet, "--input-field", "name=Ada", "--json").json["id"]
    listed = reflux("runs", "--json", "--limit", "1").json
    assert [one["id"] for one in listed["items"]] == [run]
    assert listed["next_cursor"]
    older = reflux("runs", "list", "--limit", "1", "--cursor", listed["next_cursor"])
    assert older.code == 0
    assert run not in older.out
    shown = reflux("runs", "show", run)
    assert f"Run {run} of greet" in shown.out
    assert "hello" in shown.out
    events = reflux("runs", "events", run, "--json").json["items"]
    assert [one["type"] for one in events] == ["run_created", "attempt_succeeded", "run_completed"]
    assert reflux("runs", "export", run, "--format", "csv").out.startswith("seq,type,at,step_id")
    reflux("runs", "export", run, "--output", "run.json")
    assert json.loads((reflux.directory / "run.json").read_text())["run"]["id"] == run


def test_the_same_idempotency_key_gives_the_same_run(reflux: Reflux, greet: str) -> None:
    arguments = ("execute", greet, "--input-field", "name=Ada", "--idempotency-key", "cli-test-1", "--json")
    assert reflux(*arguments).json["id"] == reflux(*arguments).json["id"]


def test_progress_shows_retries_and_elements(reflux: Reflux, tmp_path: Path, shop: Shop) -> None:
    shop.stock_calls = 0
    (tmp_path / "steps.yaml").write_text(
        f"""
name: progress
steps:
  - id: stock
    node: http.request
    with: {{url: "http://127.0.0.1:{shop.server_port}/stock"}}
    retry: {{max_attempts: 3, initial: 50ms}}
  - id: each
    node: transform.map
    needs: [stock]
    foreach: "{{{{ [1, 2, 3] }}}}"
    with: {{value: "{{{{ item * 2 }}}}"}}
  - id: never
    node: transform.map
    needs: [each]
    when: "{{{{ 1 > 2 }}}}"
    with: {{value: 1}}
"""
    )
    done = reflux("execute", "steps.yaml")
    assert done.code == 0, done.out
    assert "waiting" in done.err
    assert "upstream_5xx" in done.err
    assert "3 attempts" in done.err
    assert "3 of 3 elements" in done.err
    assert "never                skipped" in done.err


def test_control_characters_do_not_reach_the_terminal(reflux: Reflux, greet: str) -> None:
    (reflux.directory / "evil.yaml").write_text(
        GREET.replace("name: greet", 'name: evil\ndescription: "\\e]0;owned\\a"')
    )
    assert reflux("workflows", "create", "evil.yaml").code == 0
    listed = reflux("workflows", "list", "--search", "evil")
    assert "owned" in listed.out
    assert "\x1b" not in listed.out
    assert "\x07" not in listed.out


@pytest.mark.chaos
def test_watching_survives_a_restart_of_the_server(tmp_path: Path) -> None:
    (tmp_path / "nap.yaml").write_text(NAP.replace("seconds: 30", "seconds: 4"))
    with running_server() as own:
        command = Reflux(own.url, tmp_path)
        watching = command.start("execute", "nap.yaml", "--json")
        _until_waiting(own)
        own.kill()
        own.start()
        out, err = watching.communicate(timeout=60)
    assert watching.returncode == 0, err.decode()
    run = json.loads(out)
    assert run["status"] == "completed"
    assert run["recoveries"] == 1


@pytest.mark.chaos
def test_a_person_says_what_became_of_an_attempt(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, running_server() as own:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        (tmp_path / "charge.yaml").write_text(
            f"name: charge\nsteps: [{{id: charge, node: http.request, with: {{url: '{url}', method: POST}}}}]\n"
            "outputs: {id: '{{ steps.charge.output.id }}'}\n"
        )
        command = Reflux(own.url, tmp_path)
        run = command("execute", "charge.yaml", "--wait", "0", "--json").json["id"]
        silent.settimeout(20)
        with silent.accept()[0]:
            own.kill()
        own.start()
        _until_waiting(own)
        shown = command("runs", "show", run)
        assert "waits: outcome_unknown" in shown.out
        assert f"reflux runs resolve {run} charge" in shown.err
        assert command("runs", "resolve", run, "other", "--outcome", "failed").code == 2
        told = command("runs", "resolve", run, "charge", "--outcome", "succeeded", "--output", '{"id": "ch_1"}')
        assert told.code == 0, told.err
        done = command("runs", "watch", run)
        assert done.code == 0
        assert "outcome_unknown" in done.err
        assert '"id": "ch_1"' in done.out


def _until_waiting(server: RunningServer) -> None:
    deadline = time.monotonic() + 20
    with server.client() as client:
        while time.monotonic() < deadline:
            items = client.get("/api/v1/runs").json()["items"]
            if items and items[0]["status"] == "waiting":
                return
            time.sleep(0.05)
    raise AssertionError("the run has not started")
