"""The other commands against a real server."""

import json
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Reflux
from tests.server import REFLUX

SPEC = "name: {name}\nsteps: [{{id: a, node: transform.map, with: {{value: {value}}}}}]\n"


def test_workflows_and_their_versions(reflux: Reflux, tmp_path: Path) -> None:
    file = tmp_path / "w.yaml"
    file.write_text(SPEC.format(name="versioned", value=1))
    assert "version 1" in reflux("workflows", "create", "w.yaml").out
    file.write_text(SPEC.format(name="versioned", value=2))
    assert reflux("workflows", "create", "w.yaml", "--json").json["version"] == 2
    versions = reflux("workflows", "versions", "versioned", "--json").json["items"]
    assert [(one["version"], one["current"]) for one in versions] == [(2, True), (1, False)]
    assert reflux("workflows", "publish", "versioned", "1").code == 0
    shown = reflux("workflows", "show", "versioned")
    assert "version 1 of 1" in shown.out
    assert "value: 1" in shown.out
    assert "versioned" in reflux("workflows", "--search", "versioned").out
    assert reflux("workflows", "delete", "versioned").code == 0
    assert reflux("workflows", "show", "versioned").code == 2


def test_nodes(reflux: Reflux) -> None:
    assert "http.request" in reflux("nodes").out
    shown = reflux("nodes", "show", "http.request")
    assert "max_response_bytes" in shown.out
    assert reflux("nodes", "show", "flow.if", "--json").json["effect"] == "pure"
    assert reflux("nodes", "show", "flow.fi").code == 2


def test_secrets_come_from_a_pipe_or_a_file_and_never_out(reflux: Reflux, tmp_path: Path) -> None:
    assert reflux("secrets", "set", "PIPED", stdin="pipe-value-1\n").code == 0
    (tmp_path / "value").write_text("file-value-1")
    done = reflux("secrets", "set", "FILED", "--from-file", "value")
    assert "{{ secrets.FILED }}" in done.out
    listed = reflux("secrets", "--json")
    assert {"PIPED", "FILED"} <= {one["name"] for one in listed.json["items"]}
    assert "value-1" not in listed.out + done.out + done.err
    assert "value-1" not in reflux("audit", "--json", "--limit", "100").out
    assert reflux("secrets", "delete", "PIPED").code == 0
    assert reflux("secrets", "delete", "PIPED").code == 2
    # No way to give it as an argument.
    assert reflux("secrets", "set", "ARGUED", "value-1").code == 2


def test_keys_and_roles(reflux: Reflux) -> None:
    made = reflux("keys", "create", "reader", "--role", "viewer")
    key = made.out.strip()
    assert key.startswith("rfx_")
    viewer = {"REFLUX_API_KEY": key}
    assert reflux("workflows", "list", env=viewer).code == 0
    refused = reflux("secrets", "set", "X", stdin="long-enough", env=viewer)
    assert refused.code == 2
    assert "needs the role editor" in refused.err
    listed = reflux("keys", "--json").json["items"]
    assert key not in json.dumps(listed)
    mine = next(one for one in listed if one["name"] == "reader")
    assert reflux("keys", "revoke", mine["id"]).code == 0
    revoked = reflux("workflows", env=viewer)
    assert revoked.code == 2
    assert "--api-key" in revoked.err


def test_traces_are_imported_in_parts_and_read(reflux: Reflux, tmp_path: Path) -> None:
    row = {
        "run_id": "r", "step_id": "s", "node": "cli.imported", "status": "ok", "start": "2026-11-01T02:00:00Z",
        "latency_ms": 5, "features": {"filler": "x" * 150},
    }  # fmt: skip
    lines = [json.dumps({**row, "run_id": f"r{number}"}) for number in range(35_000)]
    lines[30_000] = '{"run_id": "broken"}'
    (tmp_path / "rows.ndjson").write_text("\n".join(lines))
    assert (tmp_path / "rows.ndjson").stat().st_size > 8 * 1024 * 1024
    done = reflux("traces", "import", "rows.ndjson", "--json")
    assert done.code == 2
    assert (done.json["inserted"], done.json["rejected"]) == (34_999, 1)
    assert done.json["faults"][0]["line"] == 30_001
    window = ("--from", "2026-11-01T00:00:00Z", "--to", "2026-11-02T00:00:00Z")
    found = reflux("traces", "--node", "cli.imported", "--status", "ok", "--limit", "5", "--json", *window).json
    assert len(found["items"]) == 5
    figures = reflux("insights", "reliability", "--node", "cli.imported", "--json", *window).json["items"]
    assert sum(one["attempts"] for one in figures) == 34_999
    for kind in ("reliability", "failures", "latency", "cost", "trends"):
        done = reflux("insights", kind, *window)
        assert done.code == 0, done.err
    assert "p99_ms" in reflux("insights", "latency", "--by", "version", *window).out


def test_audit_and_status(reflux: Reflux) -> None:
    reflux("secrets", "set", "AUDITED", stdin="long-enough")
    found = reflux("audit", "--action", "secret.put", "--target", "AUDITED", "--json").json["items"]
    assert found[0]["actor"] == "first"
    assert "serves" in reflux("status", env={"REFLUX_API_KEY": ""}).out
    assert reflux("status", "--json").json["readyz"]["status"] == "ok"


@pytest.mark.parametrize("arguments", [("status",), ("runs",), ("nodes", "list")])
def test_no_server_leaves_with_3(offline: Reflux, arguments: tuple[str, ...]) -> None:
    done = offline(*arguments)
    assert done.code == 3
    assert "reflux up" in done.err


def test_usage_errors_leave_with_2(reflux: Reflux) -> None:
    assert reflux("runs", "list", "--limit", "0").code == 2
    assert reflux("runs", "list", "--nonsense").code == 2
    assert reflux("status", "--url", "ftp://x").code == 2


def test_help_is_fast_and_complete() -> None:
    # Load, not speed of the machine: the least of several tries.
    best = 10.0
    for _ in range(5):
        begun = time.monotonic()
        done = subprocess.run([str(REFLUX), "--help"], capture_output=True, text=True, check=True)
        best = min(best, time.monotonic() - begun)
    for name in ("up", "execute", "runs", "validate", "workflows", "nodes", "secrets", "keys", "traces", "insights"):
        assert f"  {name} " in done.stdout
    assert best < 0.3
