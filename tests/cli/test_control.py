"""The commands that steer what runs: node versions and routes, limits, cache, variables, operating a run."""

import json
from pathlib import Path
from typing import Any

from docs.examples.shop import Shop
from tests.cli.conftest import Reflux


def write(directory: Path, name: str, document: Any) -> str:
    (directory / name).write_text(json.dumps(document))
    return name


def one_step(
    name: str, node: str = "transform.map", with_: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    step = {"id": "only", "node": node, "with": with_ or {"value": 1}, **more}
    return {"name": name, "steps": [step], "outputs": {"result": "{{ steps.only.output }}"}}


def test_versions_and_routes_of_a_node(reflux: Reflux, tmp_path: Path) -> None:
    node = {"name": "cli.charge", "base": "transform.map", "with": {"value": "{{ input.n }}"}}
    write(tmp_path, "one.json", {**node, "version": "1.0.0", "label": "one"})
    (tmp_path / "two.yaml").write_text(
        "{name: cli.charge, version: 2.0.0, label: two, base: transform.map, status: draft, with: {value: 2}}"
    )
    assert "cli.charge@1.0.0 is there (production)" in reflux("nodes", "create", "one.json").out
    assert reflux("nodes", "create", "two.yaml", "--json").json["status"] == "draft"
    assert "staging" in reflux("nodes", "promote", "cli.charge", "2.0.0").out
    assert reflux("nodes", "promote", "cli.charge", "2.0.0", "--json").json["status"] == "production"
    listed = reflux("nodes", "versions", "cli.charge", "--json").json["items"]
    assert [(one["version"], one["label"]) for one in listed] == [("2.0.0", "two"), ("1.0.0", "one")]
    assert reflux("nodes", "version", "cli.charge", "1.0.0").json["binding"]["base"] == "transform.map@1.0.0"
    assert reflux("nodes", "route", "cli.charge").code == 2

    arms = [{"version": "one", "weight": 90, "fallback": "two"}, {"version": "two", "weight": 10}]
    breaker = {"min_calls": 10, "failure_rate": 0.3}
    write(tmp_path, "route.json", {"arms": arms, "breaker": breaker})
    assert "Revision 1" in reflux("nodes", "set-route", "cli.charge", "route.json").out
    shown = reflux("nodes", "route", "cli.charge")
    assert "closed (0 of 0 failed)" in shown.out
    write(tmp_path, "bad.json", {"arms": [{"version": "one", "weight": 90, "fallbak": "two"}]})
    refused = reflux("nodes", "set-route", "cli.charge", "bad.json")
    assert refused.code == 2
    assert "did you mean `fallback`?" in refused.err
    write(tmp_path, "all.json", {"arms": [{"version": "two"}]})
    assert reflux("nodes", "set-route", "cli.charge", "all.json", "--json").json["revision"] == 2
    reverted = reflux("nodes", "revert-route", "cli.charge", "--json").json
    assert (reverted["revision"], reverted["reverted_to"]) == (3, 1)
    assert '"1.0.0": 0.9' in reflux("nodes", "route-revisions", "cli.charge").out
    assert reflux("nodes", "revert-route", "cli.charge", "--revision", "9").code == 2
    assert reflux("nodes", "delete-route", "cli.charge").code == 0
    assert "deprecated" in reflux("nodes", "deprecate", "cli.charge", "1.0.0").out
    assert "cannot read missing.json" in reflux("nodes", "create", "missing.json").err


def test_limits(reflux: Reflux, tmp_path: Path) -> None:
    done = reflux(
        "limits", "set", "transform.filter", "--concurrency", "3", "--calls", "50", "--per", "1m", "--burst", "5"
    )
    assert "at most 3 at once and at most 50 in 1m, 5 at once" in done.out
    shown = reflux("limits", "show", "transform.filter", "--json").json
    assert shown["rate"] == {"calls": 50, "per": "1m", "burst": 5}
    for wrong in (("--burst", "5"), ()):
        assert reflux("limits", "set", "transform.filter", *wrong).code == 2
    assert reflux("limits", "delete", "transform.filter").code == 0
    assert reflux("limits", "delete", "transform.filter").code == 2

    write(
        tmp_path, "w.json", {**one_step("cli_limited", "flow.wait", {"event": "never"}), "policies": {"concurrency": 1}}
    )
    assert reflux("workflows", "create", "w.json").code == 0
    runs = [reflux("execute", "cli_limited", "--wait", "0", "--json").json["id"] for _ in range(2)]
    (use,) = [one for one in reflux("limits", "--json").json["items"] if one["workflow"] == "cli_limited"]
    assert (use["max"], use["in_use"], use["waiting"]) == (1, 1, 1)
    assert "cli_limited" in reflux("limits", "list").out
    assert "concurrency" in reflux("runs", "show", runs[1]).out
    assert reflux("runs", "bulk", "cancel", "--workflow", "cli_limited").code == 0


def test_cache(reflux: Reflux, tmp_path: Path, shop: Shop) -> None:
    spec = one_step("cli_cached", "transform.map", {"value": "{{ input.n }}"}, cache={"ttl": "1h"})
    file = write(tmp_path, "w.json", spec)
    for _ in range(2):
        assert reflux("execute", file, "--input", '{"n": 1}').code == 0
    shown = reflux("cache", "--json").json
    assert any(one["node"] == "transform.map" and one["entries"] >= 1 for one in shown["nodes"])
    assert "hits and" in reflux("cache", "list").out
    refused = reflux("cache", "clear")
    assert refused.code == 2
    assert "all" in refused.err
    assert reflux("cache", "clear", "--workflow", "cli_cached", "--json").json == {"removed": 1}
    assert "0 cached results" in reflux("cache", "clear", "--all").out


def test_variables(reflux: Reflux, tmp_path: Path) -> None:
    assert "{{ vars.cli_region }}" in reflux("variables", "set", "cli_region", "eu").out
    assert reflux("variables", "set", "cli_list", "[1, 2]", "--json").json["value"] == [1, 2]
    (tmp_path / "value.json").write_text('{"a": 1}')
    mine = reflux("variables", "set", "cli_mine", "@value.json", "--workflow", "any", "--ttl", "30m", "--json").json
    assert (mine["value"], mine["scope"], mine["workflow"]) == ({"a": 1}, "workflow", "any")
    assert mine["expires_at"]
    assert reflux("variables", "set", "cli_session", "1", "--session", "s-1").code == 0
    named = {one["name"] for one in reflux("variables", "--limit", "100", "--json").json["items"]}
    assert {"cli_region", "cli_list", "cli_mine", "cli_session"} <= named
    only = reflux("variables", "list", "--scope", "session", "--session", "s-1", "--json").json["items"]
    assert [one["name"] for one in only] == ["cli_session"]
    assert reflux("variables", "set", "cli_x", "1", "--workflow", "a", "--session", "b").code == 2
    assert reflux("variables", "delete", "cli_region").code == 0
    assert reflux("variables", "delete", "cli_region").code == 2
    assert reflux("variables", "delete", "cli_mine", "--workflow", "any").code == 0


def test_operating_a_run(reflux: Reflux, tmp_path: Path) -> None:
    """In words, for people; tests/api/test_operations.py does the same with --json."""
    steps = [
        {"id": "form", "node": "flow.wait", "with": {"form": {"type": "object", "required": ["age"]}}},
        {"id": "late", "node": "transform.map", "with": {"value": "{{ steps.form.output }}"}},
    ]
    write(tmp_path, "w.json", {"name": "cli_operated", "steps": steps})
    assert reflux("workflows", "create", "w.json").code == 0
    run = reflux("execute", "cli_operated", "--wait", "0", "--json").json["id"]
    assert f"Run {run} is paused" in reflux("runs", "pause", run, "--reason", "lunch").out
    shown = reflux("runs", "show", run).out
    assert "lunch" in shown
    assert reflux("runs", "resume", run).code == 0
    refused = reflux("runs", "submit", run, "form", "--payload", "{}")
    assert refused.code == 2
    assert "age" in refused.err
    assert reflux("runs", "approve", run, "form").code == 2
    assert reflux("runs", "continue", run, "--with", "{}").code == 2
    assert "stops nowhere" in reflux("runs", "breakpoints", run).out
    assert "Done" in reflux("runs", "submit", run, "form", "--payload", '{"age": 41}').out
    assert reflux("runs", "watch", run, "--wait", "10").code == 0
    assert reflux("runs", "redrive", run, "late", "--with", '{"value": 5}').code == 0
    assert reflux("runs", "show", run, "--json").json["steps"][1]["output"] == 5
    assert f"it repeats {run}" in reflux("runs", "restart", run, "--from-step", "late").out
    (tmp_path / "s.json").write_text(json.dumps(one_step("cli_session", with_={"value": "{{ vars.who }}"})))
    reflux("variables", "set", "who", "Ada", "--session", "s-9")
    stopped = reflux("execute", "s.json", "--session", "s-9", "--breakpoint", "only", "--wait", "0.3", "--json")
    assert (stopped.code, stopped.json["breakpoints"]) == (4, ["only"])
    assert "Done" in reflux("runs", "continue", stopped.json["id"]).out
    assert reflux("runs", "watch", stopped.json["id"], "--json").json["outputs"] == {"result": "Ada"}
    assert "ended" in reflux("runs", "pause", run).err
