"""`reflux runs`: pause, restart, re-drive, answer and change runs that are there already."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from api.cli.call import Call, command
from api.cli.document import media_type, read_file, read_value
from api.cli.failure import CommandError
from api.cli.output import print_json, say

RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")]
StepId = Annotated[str, typer.Argument(metavar="STEP", help="The step's id.")]
Reason = Annotated[str, typer.Option(help="Why.")]
Comment = Annotated[str, typer.Option(help="What to say with it.")]
Payload = Annotated[str | None, typer.Option(help="JSON, @file, or - for standard input.")]
Edited = Annotated[str | None, typer.Option("--with", help="Parameters to replace: a JSON object, @file, or -.")]
Item = Annotated[int | None, typer.Option(min=0, help="The element, for a step with `foreach`.")]


class Version(StrEnum):
    """Which version of the workflow runs."""

    SAME = "same"
    CURRENT = "current"


class Mode(StrEnum):
    """How far to go from a breakpoint."""

    CONTINUE = "continue"
    STEP = "step"


@command
def pause_run(call: Call, run: RunId, reason: Reason = "") -> None:
    """Start nothing more until the run is resumed."""
    _ask(call, run, "pause", {"reason": reason})


@command
def resume_run(call: Call, run: RunId) -> None:
    """Go on after a pause."""
    _ask(call, run, "resume", {})


@command
def restart_run(
    call: Call,
    run: RunId,
    value: Annotated[str | None, typer.Option("--input", help="Another input: JSON, @file, or -.")] = None,
    from_step: Annotated[str | None, typer.Option(help="Take over what does not depend on this step.")] = None,
    version: Annotated[Version, typer.Option(help="Of the workflow.")] = Version.SAME,
) -> None:
    """Start a new run like this one."""
    body: dict[str, Any] = {"version": version.value}
    if value is not None:
        body["input"] = read_value(value, "--input")
    if from_step is not None:
        body["from_step"] = from_step
    found = call.server.call("POST", f"{path_of(run)}/restart", body=body)
    call.tell(found, f"Run {found['id']} is {found['status']}; it repeats {run}")


@command
def redrive_step(
    call: Call,
    run: RunId,
    step: StepId,
    downstream: Annotated[bool, typer.Option(help="With all steps that depend on it.")] = True,
    edited: Edited = None,
) -> None:
    """Run a step again, also when the run has ended."""
    body: dict[str, Any] = {"downstream": downstream, **_edited(edited)}
    _ask(call, run, f"{_step(step)}/redrive", body)


@command
def signal_run(
    call: Call,
    run: RunId,
    name: Annotated[str, typer.Argument(help="What a `flow.wait` of the run waits for.")],
    payload: Payload = None,
) -> None:
    """Tell the run something."""
    body = {} if payload is None else {"payload": read_value(payload, "--payload")}
    _ask(call, run, f"signals/{quote(name, safe='')}", body)


@command
def continue_run(
    call: Call,
    run: RunId,
    step: Annotated[str | None, typer.Option(help="Only this step; default: all that stand at a breakpoint.")] = None,
    mode: Annotated[Mode, typer.Option(help="step: stop again before what starts next.")] = Mode.CONTINUE,
    edited: Edited = None,
) -> None:
    """Go on from a breakpoint."""
    if edited is not None and step is None:
        raise CommandError("--with changes one step; say which with --step")
    place = "continue" if step is None else f"{_step(step)}/continue"
    _ask(call, run, place, {"mode": mode.value, **_edited(edited)})


@command
def set_breakpoints(
    call: Call, run: RunId, steps: Annotated[list[str] | None, typer.Argument(help="Steps to stop before.")] = None
) -> None:
    """Stop before these steps, and no others. Without steps: stop nowhere."""
    found = call.server.call("PUT", f"{path_of(run)}/breakpoints", body={"steps": steps or []})
    _tell(call, found, f"It stops before: {', '.join(steps)}" if steps else "It stops nowhere")


@command
def approve_step(call: Call, run: RunId, step: StepId, comment: Comment = "", item: Item = None) -> None:
    """Approve what a step waits for."""
    _ask(call, run, f"{_step(step)}/approve", {"comment": comment, **_item(item)})


@command
def reject_step(call: Call, run: RunId, step: StepId, comment: Comment = "", item: Item = None) -> None:
    """Reject what a step waits for."""
    _ask(call, run, f"{_step(step)}/reject", {"comment": comment, **_item(item)})


@command
def submit_step(
    call: Call,
    run: RunId,
    step: StepId,
    payload: Annotated[str, typer.Option(help="What to fill in: JSON, @file, or -.")],
    item: Item = None,
) -> None:
    """Fill in the form that a step waits for."""
    _ask(call, run, f"{_step(step)}/submit", {"payload": read_value(payload, "--payload"), **_item(item)})


@command
def patch_run(
    call: Call,
    run: RunId,
    operations: Annotated[str, typer.Argument(help="A YAML or JSON file, JSON, or -: a list of operations.")],
) -> None:
    """Change steps of the run that have not started."""
    given = _operations(operations)
    body = given if isinstance(given, dict) else {"operations": given}
    found = call.server.call("PATCH", f"{path_of(run)}/graph", body=body)
    _tell(call, found, "The graph is changed")


def add_to(app: typer.Typer) -> None:
    """Put the commands into the group `runs`."""
    for name, function in (
        ("pause", pause_run),
        ("resume", resume_run),
        ("restart", restart_run),
        ("redrive", redrive_step),
        ("signal", signal_run),
        ("continue", continue_run),
        ("breakpoints", set_breakpoints),
        ("approve", approve_step),
        ("reject", reject_step),
        ("submit", submit_step),
        ("patch", patch_run),
    ):
        app.command(name)(function)


def path_of(run: str) -> str:
    """The path of a run."""
    return f"/api/v1/runs/{quote(run, safe='')}"


def _ask(call: Call, run: str, place: str, body: dict[str, Any]) -> None:
    _tell(call, call.server.call("POST", f"{path_of(run)}/{place}", body=body), "Done")


def _tell(call: Call, run: dict[str, Any], sentence: str) -> None:
    if call.as_json:
        print_json(run)
    else:
        say(f"{sentence}. Run {run['id']} is {run['status']}")


def _step(step: str) -> str:
    return f"steps/{quote(step, safe='')}"


def _item(item: int | None) -> dict[str, int]:
    return {} if item is None else {"item": item}


def _edited(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    value = read_value(text, "--with")
    if not isinstance(value, dict):
        raise CommandError("--with must be a JSON object")
    return {"with": value}


def _operations(text: str) -> Any:
    if text.lstrip()[:1] in ("[", "{") or text == "-" or text.startswith("@"):
        return read_value(text, "OPERATIONS")
    path = Path(text)
    if media_type(path) == "application/json":
        return read_value(f"@{text}", "OPERATIONS")
    import core.yaml
    from core.yaml import YamlError

    try:
        return core.yaml.decode(read_file(path))
    except YamlError as error:
        raise CommandError(f"{path} is not readable: {error}") from None
