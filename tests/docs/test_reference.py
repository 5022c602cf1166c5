"""The reference pages say what the code says."""

import ast
import re
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import typer.main
from packaging.requirements import Requirement

from api.cli.main import app
from core.errors import ErrorClass
from core.run import EventType, RunStatus, StepStatus, WaitReason
from core.trace import TraceRow
from engine.routing.breaker import Verdict, verdict
from infra.settings import PREFIX, Settings
from tests.docs.generated import REFERENCE, parts, with_parts
from tests.docs.page import ROOT

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
_ROW = re.compile(r"^\| `?([\w.-]+)`? \|(.*)\|$", re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)[^)]*\)")


def test_settings_are_those_of_the_code() -> None:
    rows = dict(_ROW.findall((DOCS / "reference" / "settings.md").read_text()))
    documented = {name: cells.split("|")[0].strip().strip("`") for name, cells in rows.items() if name != "variable"}
    expected = {}
    for name, field in Settings.model_fields.items():
        default = field.default
        expected[f"{PREFIX}{name.upper()}"] = "" if default in (None, ()) else str(default)
    assert documented == expected


def test_dependencies_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    run_time, development = (DOCS / "dependencies.md").read_text().split("## For development")
    for text, wanted in (
        (run_time, project["dependencies"]),
        (development, project["optional-dependencies"]["dev"]),
    ):
        documented = [name for name, reason in _ROW.findall(text) if name != "package" and reason.strip()]
        assert sorted(documented) == sorted(Requirement(one).name for one in wanted)


def test_the_failure_matrix_names_tests_that_exist() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (DOCS / "failure-matrix.md").read_text())
    rows = [row for row in (DOCS / "failure-matrix.md").read_text().splitlines() if row.startswith("| ")]
    # Each table has a heading; each other row ends with its test.
    assert len(named) == len([row for row in rows if not row.startswith("| what breaks |")])
    for file, test in named:
        tree = ast.parse((ROOT / file).read_text())
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert test in functions, f"{file} has no {test}"


def test_all_states_and_events_are_drawn() -> None:
    text = (DOCS / "state-machine.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == {one.value for one in EventType}
    _, run, step = text.split("```mermaid\n")
    for diagram, statuses in ((run, RunStatus), (step, StepStatus)):
        drawn = {word for line in diagram.split("```")[0].splitlines()[1:] for word in _states(line)}
        assert drawn == {one.value for one in statuses}


def _states(line: str) -> Iterator[str]:
    ends, _, _ = line.partition(":")
    yield from (end.strip() for end in ends.split("-->") if end.strip() != "[*]")


def test_all_commands_are_documented() -> None:
    text = (DOCS / "reference" / "cli.md").read_text()
    root = typer.main.get_command(app)
    commands = getattr(root, "commands", {})
    assert len(commands) > 5
    for name, command in commands.items():
        line = next((line for line in text.splitlines() if line.startswith(f"| `reflux {name}")), None)
        assert line is not None, name
        below = getattr(command, "commands", None)
        if below:
            shown = line.split("`")[1].removeprefix(f"reflux {name} ").replace("\\", "").split("|")
            assert sorted(shown) == sorted(below)


def test_the_list_of_decisions_is_complete() -> None:
    listed = re.findall(r"\((\d{4}-[\w-]+\.md)\)", (DOCS / "adr" / "README.md").read_text())
    assert listed == sorted(one.name for one in (DOCS / "adr").glob("0*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_page_is_reached_from_the_index() -> None:
    seen: set[Path] = set()
    waiting = [DOCS / "index.md"]
    while waiting:
        page = waiting.pop().resolve()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        waiting += [page.parent / one for one in _LINK.findall(page.read_text()) if "://" not in one]
    assert {one.resolve() for one in DOCS.rglob("*.md")} <= seen


def test_files_named_in_the_architecture_exist() -> None:
    for page in (DOCS / "architecture.md", *(DOCS / "adr").glob("0*.md")):
        for name in re.findall(r"`((?:core|engine|infra|api|tests|docs|bench)/[\w./-]*)`", page.read_text()):
            assert (ROOT / name).exists(), f"{page.name}: {name}"


@pytest.mark.parametrize("page", sorted({page for page, _ in parts()}))
def test_generated_parts_are_those_of_the_code(page: str) -> None:
    text = (REFERENCE / page).read_text()
    assert text.count("<!-- generated: ") == len([one for one, _ in parts() if one == page])
    assert text == with_parts(page, text), f"run `python -m tests.docs.generated` to write {page} anew"


def test_columns_of_traces_are_those_of_the_code() -> None:
    columns, classes = (DOCS / "reference" / "traces.md").read_text().split("## Error classes")
    names = re.compile(r"^\| `(\w+)` \|", re.MULTILINE)
    assert set(names.findall(columns)) == {field.name for field in fields(TraceRow)}
    assert names.findall(classes) == [one.value for one in ErrorClass]
    counted = re.findall(r"^\| `(\w+)` \|.*\| yes \|$", classes, re.MULTILINE)
    assert set(counted) == {one.value for one in ErrorClass if verdict(one.value) is Verdict.BAD}


def test_every_reason_to_wait_is_explained() -> None:
    section = (DOCS / "how-to" / "operate-runs.md").read_text().split("## See why it waits")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    assert {name for cell in cells for name in re.findall(r"`(\w+)`", cell)} == {one.value for one in WaitReason}
