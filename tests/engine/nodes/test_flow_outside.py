"""Waiting for what happens outside, and the end of a run: what the nodes describe to the engine."""

from typing import Any

import pytest

from core.errors import ErrorClass, StepError
from engine.node.sdk import Lane
from engine.nodes import flow
from engine.nodes.flow.wait import decision
from tests.engine.node.step_context import make_context


def test_a_wait_for_an_event() -> None:
    described = flow.wait.describe({"event": "paid", "match": "event.id == input.id", "timeout": "2d"})
    assert described == flow.Wait("event", "paid", "event.id == input.id", 172_800.0, role="editor")
    assert described.late is None
    assert flow.wait.describe({"event": "paid"}).match is None


def test_a_wait_for_a_form() -> None:
    form = {"type": "object", "required": ["name"]}
    described = flow.wait.describe({"form": form, "message": "Who?", "timeout": 5, "on_timeout": "continue"})
    assert (described.kind, described.form, described.message, described.role) == ("form", form, "Who?", "editor")
    assert (described.timeout, described.on_timeout, described.late) == (5.0, "continue", None)


def test_a_wait_for_an_approval() -> None:
    described = flow.wait.describe({"approval": True, "on_reject": "continue"})
    assert (described.kind, described.role, described.on_reject) == ("approval", "approver", "continue")
    assert described.late == decision(False, None, "") == {"approved": False, "by": None, "comment": ""}
    assert flow.wait.describe({"approval": True, "role": "admin"}).role == "admin"


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"approval": False},
        {"event": "a", "approval": True},
        {"event": "a", "form": {}},
        {"event": ""},
        {"event": "a", "timeout": "soon"},
        {"form": {"type": "objekt"}},
        {"approval": "yes"},
    ],
)
def test_a_wait_is_for_exactly_one_thing(params: dict[str, Any]) -> None:
    with pytest.raises(StepError) as raised:
        flow.wait.describe(params)
    assert raised.value.error_class is ErrorClass.INVALID_INPUT


def test_an_end() -> None:
    assert flow.end.describe({}) == flow.End("completed", None, "")
    described = flow.end.describe({"status": "failed", "message": "no stock", "outputs": {"left": 0}})
    assert described == flow.End("failed", {"left": 0}, "no stock")
    with pytest.raises(StepError):
        flow.end.describe({"status": "cancelled"})


@pytest.mark.parametrize("node", [flow.wait, flow.end, flow.subworkflow, flow.parallel, flow.foreach, flow.loop])
async def test_what_only_describes_is_never_called(node: Any) -> None:
    assert node.lane in {Lane.WAIT, Lane.COMPOSITE, Lane.END}
    with pytest.raises(TypeError, match="cannot be called"):
        await node({}, make_context())
