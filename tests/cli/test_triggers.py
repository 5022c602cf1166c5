"""`reflux triggers` and `reflux events` against a real server; the how-to about triggers shows the rest."""

import json
from pathlib import Path

from tests.cli.conftest import Reflux

SPEC = """
name: triggered
triggers: [{type: cron, name: nightly, schedule: "0 3 * * *", timezone: Europe/Berlin}]
steps: [{id: a, node: transform.map, with: {value: 1}}]
"""


def test_triggers_in_and_beside_a_spec(reflux: Reflux, tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(SPEC)
    assert reflux("workflows", "create", "w.yaml").code == 0
    (nightly,) = reflux("triggers", "--workflow", "triggered", "--json").json["items"]
    shown = reflux("triggers", "show", nightly["id"])
    assert "nightly of triggered, from the spec, next " in shown.out
    assert "timezone: Europe/Berlin" in shown.out
    assert reflux("triggers", "show", nightly["id"], "--json").json == nightly
    refused = reflux("triggers", "delete", nightly["id"])
    assert refused.code == 2
    assert "take it out of the spec" in refused.err
    config = json.dumps({"type": "webhook", "path": "cli/hook"})
    made = reflux("triggers", "create", "triggered", config, "--json").json
    assert made["url"] == "/webhooks/cli/hook"
    assert "/webhooks/cli/hook" in reflux("triggers", "list", "--type", "webhook").out
    assert reflux("triggers", "create", "triggered", "[]").code == 2
    assert "paused" in reflux("triggers", "pause", made["id"]).out
    assert "beside the spec, paused" in reflux("triggers", "show", made["id"]).out
    fired = reflux("triggers", "fire", made["id"], "--input", '{"x": 1}', "--json").json
    assert reflux("triggers", "firings", made["id"], "--json").json["items"][0]["run_id"] == fired["run_id"]
    assert reflux("triggers", "delete", made["id"]).code == 0
    assert reflux("triggers", "show", made["id"]).code == 2
    assert len(reflux("triggers", "preview", nightly["id"], "--count", "2", "--json").json["times"]) == 2
    assert reflux("triggers", "preview", made["id"]).code == 2


def test_events(reflux: Reflux) -> None:
    sent = reflux("events", "send", "cli.sent", "--payload", '{"n": 1}', "--dedupe-key", "k", "--json").json
    assert reflux("events", "send", "cli.sent", "--dedupe-key", "k", "--json").json["id"] == sent["id"]
    (listed,) = reflux("events", "--name", "cli.sent", "--json").json["items"]
    assert (listed["id"], listed["payload"], listed["dedupe_key"]) == (sent["id"], {"n": 1}, "k")
    assert "cli.sent" in reflux("events", "list").out
    assert reflux("events", "send", "not a name").code == 2
