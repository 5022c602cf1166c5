"""`reflux validate`, with a server and without."""

from pathlib import Path

from tests.cli.conftest import Reflux

GOOD = "name: good\nsteps: [{id: a, node: transform.map, with: {value: 1}}]\n"
BAD = "name: bad\nsteps: [{id: a, node: transform.mapp, with: {value: 1}}, {id: b, node: flow.delay}]\n"
OWN = "name: own\nsteps: [{id: a, node: my.node, with: {number: 1}}]\n"
NODE = """
from engine.node.sdk import node

@node("my.node", version="1.0.0", effect="pure")
def mine(number: int) -> int:
    return number
"""


def test_by_the_server(reflux: Reflux, tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "bad.yaml").write_text(BAD)
    (tmp_path / "broken.json").write_text("{")
    done = reflux("validate", "good.yaml", "bad.yaml", "broken.json")
    assert done.code == 2
    assert "Checked by the server at" in done.err
    assert "good.yaml: valid" in done.out
    assert "transform.map" in done.out
    found = reflux("validate", "good.yaml", "bad.yaml", "broken.json", "--json").json
    assert [one["valid"] for one in found["files"]] == [True, False, False]
    assert {one["code"] for one in found["files"][1]["faults"]} >= {"unknown_node"}
    assert found["files"][2]["faults"][0]["code"] == "unreadable"
    assert reflux("validate", "good.yaml").code == 0


def test_without_a_server_it_says_so_and_finds_the_same(reflux: Reflux, offline: Reflux, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(BAD)
    (tmp_path / "broken.yaml").write_text("a: [")
    there = reflux("validate", "bad.yaml", "broken.yaml", "--json")
    here = offline("validate", "bad.yaml", "broken.yaml", "--json")
    assert here.code == there.code == 2
    assert "no server can be reached" in here.json["checked_by"]
    assert here.json["files"][0] == there.json["files"][0]
    assert here.json["files"][1]["faults"][0]["code"] == "unreadable"


def test_own_nodes(offline: Reflux, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(OWN)
    (tmp_path / "mine.py").write_text(NODE)
    assert offline("validate", "own.yaml").code == 2
    assert offline("validate", "--nodes", "mine.py", "own.yaml").code == 0
    missing = offline("validate", "--nodes", "missing.py", "own.yaml")
    assert missing.code == 2
    assert "missing.py" in missing.err
