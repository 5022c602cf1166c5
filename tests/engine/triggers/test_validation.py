from typing import Any

import pytest

from core.errors import Fault
from engine.validation.triggers import trigger_faults


def faults(*triggers: Any) -> list[Fault]:
    return trigger_faults({"triggers": list(triggers)})


CRON = {"type": "cron", "schedule": "*/5 * * * *"}
EVENT = {"type": "event", "name": "order.paid"}
HOOK = {"type": "webhook", "path": "charge"}


@pytest.mark.parametrize(
    "triggers",
    [
        (),
        (CRON, EVENT, HOOK, {"type": "manual"}),
        ({**CRON, "timezone": "Europe/Berlin", "input": {"at": "{{ trigger.scheduled_for }}"}},),
        ({**EVENT, "match": "event.amount > 5 && name != 'x'", "correlation": "event.id", "input": "{{ event }}"},),
        ({**HOOK, "unit_key": "{{ body.customer }}-{{ request.method }}"},),
        (EVENT, {**EVENT, "name": "large_order", "event": "order.paid"}),
    ],
)
def test_what_is_right(triggers: tuple[dict[str, Any], ...]) -> None:
    assert not faults(*triggers)


@pytest.mark.parametrize(
    ("trigger", "path", "code", "suggestion"),
    [
        ({**CRON, "schedule": "61 * * * *"}, "schedule", "bad_schedule", None),
        ({**CRON, "timezone": "Berlin"}, "timezone", "unknown_timezone", "Europe/Berlin"),
        ({**CRON, "input": {"x": "{{ triger.at }}"}}, "input.x", "unknown_reference", "trigger"),
        ({**CRON, "input": {"x": "{{ steps.a.output }}"}}, "input.x", "unknown_reference", None),
        ({"type": "event"}, "event", "missing_field", None),
        ({**EVENT, "match": "event.amount >"}, "match", "bad_expression", None),
        ({**EVENT, "match": "input.x == event.x"}, "match", "unknown_reference", None),
        ({**EVENT, "correlation": "{{ evnt.id }}"}, "correlation", "unknown_reference", "event"),
        ({**EVENT, "input": {"a": ["{{ secrets.KEY }}"]}}, "input.a[0]", "secret_not_allowed", None),
        ({**HOOK, "unit_key": "header.x"}, "unit_key", "unknown_reference", None),
    ],
)
def test_each_fault_has_its_place(trigger: dict[str, Any], path: str, code: str, suggestion: str | None) -> None:
    (found,) = faults(CRON, trigger)
    assert (found.path, found.code) == (f"$.triggers[1].{path}", code)
    assert suggestion is None or found.suggestion == suggestion


def test_what_stands_twice() -> None:
    found = faults({**HOOK, "name": "a"}, {**HOOK, "name": "b"}, {**EVENT, "name": "a"})
    assert [(one.path, one.code) for one in found] == [
        ("$.triggers[2].name", "duplicate_name"),
        ("$.triggers[1].path", "duplicate_path"),
    ]


@pytest.mark.parametrize("wrong", [None, "cron", 5, [None, "x", 7], [{"type": "cron", "schedule": 5, "timezone": []}]])
def test_wrong_shapes_are_left_to_the_check_of_shape(wrong: Any) -> None:
    assert trigger_faults({"triggers": wrong}) == []
