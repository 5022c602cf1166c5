"""`reflux validate`: all faults of workflow files at once, with a server or without."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.call import Call, command
from api.cli.document import media_type, read_file
from api.cli.failure import UNREACHABLE, WRONG, CommandError
from api.cli.output import note, print_faults, print_json, say

Check = Callable[[Path, bytes], list[dict[str, Any]]]


@command
def validate(
    call: Call,
    files: Annotated[list[Path], typer.Argument(help="YAML or JSON files.")],
    nodes: Annotated[
        list[str] | None, typer.Option("--nodes", help="A module or file with nodes; implies --offline.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Do not ask a server.")] = False,
) -> None:
    """Check workflow files, all faults at once.

    A server that can be reached checks them against its own nodes. Otherwise they are checked here, against the
    built-in nodes and those of --nodes. Leaves with 2 when there are faults.
    """
    contents = {file: read_file(file) for file in files}
    if offline or nodes:
        checked_by, results = "this command, with its built-in nodes", _all(contents, _offline(nodes or []))
    else:
        try:
            checked_by, results = f"the server at {call.server.url}", _all(contents, _by_server(call))
        except CommandError as error:
            if error.code != UNREACHABLE:
                raise
            checked_by = "this command, with its built-in nodes; no server can be reached"
            results = _all(contents, _offline([]))
    faults = [{"file": str(file), **fault} for file, found in results.items() for fault in found]
    if call.as_json:
        shown = [{"file": str(file), "valid": not found, "faults": found} for file, found in results.items()]
        print_json({"valid": not faults, "checked_by": checked_by, "files": shown})
    else:
        note(f"Checked by {checked_by}")
        _print(results, faults)
    if faults:
        raise typer.Exit(WRONG)


def _print(results: dict[Path, list[dict[str, Any]]], faults: list[dict[str, Any]]) -> None:
    for file, found in results.items():
        say(f"{file}: {len(found)} fault{'s' if len(found) > 1 else ''}" if found else f"{file}: valid")
    if faults:
        print_faults(faults)


def _all(contents: dict[Path, bytes], check: Check) -> dict[Path, list[dict[str, Any]]]:
    return {file: check(file, content) for file, content in contents.items()}


def _by_server(call: Call) -> Check:
    def check(file: Path, content: bytes) -> list[dict[str, Any]]:
        headers = {"Content-Type": media_type(file)}
        try:
            answer = call.server.call("POST", "/api/v1/workflows/validate", content=content, headers=headers)
        except CommandError as error:
            if error.problem.get("status") == 400:
                return [_unreadable(error.sentence)]
            raise
        return list(answer["faults"])

    return check


def _offline(sources: list[str]) -> Check:
    """A check without a server. Loading the nodes is slow, so it is done once and only when needed."""
    import core.json
    import core.yaml
    from core.errors import RefluxError
    from core.json import JsonError
    from core.yaml import YamlError
    from engine.node.registry import NodeRegistry
    from engine.nodes.builtin import builtin_nodes
    from engine.nodes.egress import EgressPolicy
    from engine.validation import Validated
    from engine.validation import validate as check_document

    registry = NodeRegistry()
    for version in builtin_nodes(EgressPolicy(())):
        registry.register(version)
    for source in sources:
        try:
            registry.load_module(Path(source) if source.endswith(".py") else source)
        except RefluxError as error:
            raise CommandError(error.detail) from None

    def check(file: Path, content: bytes) -> list[dict[str, Any]]:
        try:
            decode = core.json.decode if media_type(file) == "application/json" else core.yaml.decode
            found = check_document(decode(content), registry)
        except (JsonError, YamlError) as error:
            return [_unreadable(str(error))]
        if isinstance(found, Validated):
            return []
        shown = [
            {"path": one.path, "code": one.code, "message": one.message, "suggestion": one.suggestion} for one in found
        ]
        return [{name: value for name, value in one.items() if value is not None} for one in shown]

    return check


def _unreadable(sentence: str) -> dict[str, Any]:
    return {"path": "$", "code": "unreadable", "message": sentence}
