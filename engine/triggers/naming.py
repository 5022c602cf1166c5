"""Names for triggers that have none: made from what they say, so that a trigger keeps its name while it is the same.

A trigger's name is its identity: pauses and history hang on it.
"""

import hashlib
import re
from collections.abc import Sequence

from core.json import canonical
from core.trigger import CronTrigger, EventTrigger, ManualTrigger, Trigger, WebhookTrigger

_LONGEST = 128
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]")


def names_of(triggers: Sequence[Trigger]) -> list[str]:
    """The name of each trigger of a workflow: its own, or one made from what it says. No two are equal.

    Names that are given twice are a fault, which validation reports; here the second one is told apart too.
    """
    taken: set[str] = {one.name for one in triggers if one.name is not None}
    used: set[str] = set()
    names: list[str] = []
    for trigger in triggers:
        name = trigger.name
        if name is None or name in used:
            name = _made(trigger)
            if name in taken:
                name = _apart(name, _digest(trigger))
            for number in range(2, len(triggers) + 2):
                if name not in taken:
                    break
                name = _apart(name, str(number))
        taken.add(name)
        used.add(name)
        names.append(name)
    return names


def event_of(trigger: EventTrigger) -> str:
    """The name of the event that a trigger is for; empty when it names none, which validation refuses."""
    return trigger.event or trigger.name or ""


def _made(trigger: Trigger) -> str:
    match trigger:
        case CronTrigger():
            text = f"{trigger.schedule} {trigger.timezone}"
            return f"cron-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        case WebhookTrigger():
            return ("webhook-" + _NOT_IN_NAMES.sub(".", trigger.path))[:_LONGEST]
        case EventTrigger():
            return event_of(trigger) or "event"
        case ManualTrigger():
            return "manual"


def _apart(name: str, mark: str) -> str:
    return f"{name[: _LONGEST - 1 - len(mark)]}-{mark}"


def _digest(trigger: Trigger) -> str:
    return hashlib.sha256(canonical(trigger.model_dump(mode="json"))).hexdigest()[:8]
