"""Faults of triggers: schedules and zones that are none, expressions that do not compile, what is said twice.

Whether a webhook's path is free, and whether a secret is stored, is known only where they are kept.
"""

from collections.abc import Iterator
from typing import Any

from core.errors import Fault
from core.json import JsonValue
from engine.json_path import child
from engine.triggers.schedule import BadSchedule, BadZone, Schedule
from engine.validation.expressions import Place, Scan, reference_faults
from engine.wording import did_you_mean

_EVENT = Place(("event", "name"))
_CRON = Place(("trigger",))
_REQUEST = Place(("body", "request"))


def trigger_faults(document: dict[str, JsonValue]) -> list[Fault]:
    """What is wrong with the `triggers` of a document, apart from their shape."""
    triggers = document.get("triggers")
    if not isinstance(triggers, list):
        return []
    faults: list[Fault] = []
    for index, one in enumerate(triggers):
        if isinstance(one, dict):
            faults += one_trigger_faults(one, f"$.triggers[{index}]")
    return [*faults, *_twice(triggers, "name"), *_twice(triggers, "path")]


def one_trigger_faults(trigger: dict[str, Any], path: str) -> list[Fault]:
    """What is wrong with a trigger that stands at `path`, apart from its shape."""
    scan = Scan()
    faults: list[Fault] = []
    match trigger.get("type"):
        case "cron":
            faults += _schedule_faults(trigger, path)
            scan.template(trigger.get("input"), f"{path}.input", _CRON)
        case "webhook":
            _scan_value(scan, trigger.get("unit_key"), f"{path}.unit_key", _REQUEST)
        case "event":
            if not trigger.get("name") and not trigger.get("event"):
                said = "an event trigger says which event: `name: order.created`, or `event` beside a name of its own"
                faults.append(Fault(f"{path}.event", "missing_field", said))
            scan.raw(trigger.get("match"), f"{path}.match", _EVENT)
            _scan_value(scan, trigger.get("correlation"), f"{path}.correlation", _EVENT)
            scan.template(trigger.get("input"), f"{path}.input", _EVENT)
    return [*faults, *scan.faults, *reference_faults(scan, {}, {})]


def _scan_value(scan: Scan, value: JsonValue, path: str, place: Place) -> None:
    """An expression that may be written with and without braces."""
    if isinstance(value, str) and "{{" in value:
        scan.template(value, path, place)
    else:
        scan.raw(value, path, place)


def _schedule_faults(trigger: dict[str, Any], path: str) -> Iterator[Fault]:
    schedule, zone = trigger.get("schedule"), trigger.get("timezone", "UTC")
    if isinstance(zone, str):
        try:
            Schedule("* * * * *", zone)
        except BadZone as error:
            said = f"{error}{did_you_mean(error.suggestion)}"
            yield Fault(f"{path}.timezone", "unknown_timezone", said, error.suggestion)
    if isinstance(schedule, str):
        try:
            Schedule(schedule)
        except BadSchedule as error:
            yield Fault(f"{path}.schedule", "bad_schedule", f"`schedule`: {error}")


def _twice(triggers: list[JsonValue], field: str) -> Iterator[Fault]:
    seen: dict[str, str] = {}
    for index, one in enumerate(triggers):
        value = one.get(field) if isinstance(one, dict) else None
        if not isinstance(value, str):
            continue
        path = child(f"$.triggers[{index}]", field)
        if value in seen:
            hint = "; for a second trigger of an event give it a `name` and say `event`" if _is_event(one) else ""
            said = f"the {field} `{value[:100]}` stands at {seen[value]} already{hint}"
            yield Fault(path, f"duplicate_{field}", said)
        seen.setdefault(value, path)


def _is_event(trigger: JsonValue) -> bool:
    return isinstance(trigger, dict) and trigger.get("type") == "event"
