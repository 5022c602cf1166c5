"""What a firing gives to its run: the expressions of a trigger, resolved."""

from datetime import datetime
from typing import Any

from core.event import Event
from core.firing import StoredTrigger
from core.json import JsonValue
from core.trigger import CronTrigger, EventTrigger, ManualTrigger
from engine.expression.errors import ExpressionError
from engine.expression.evaluator import Evaluator
from engine.expression.result import as_text
from engine.expression.secret import SecretText
from engine.expression.template import compile_template

MAX_UNIT_KEY = 256
"""Characters of a unit key."""


class Unusable(Exception):
    """A firing cannot have a run; the message says why."""


async def cron_input(
    evaluator: Evaluator, trigger: StoredTrigger, scheduled_for: datetime, fired_at: datetime
) -> JsonValue:
    """The input of a run that is started by the clock. Raises Unusable."""
    assert isinstance(trigger.config, CronTrigger)
    scope = {"trigger": _about(trigger, scheduled_for, fired_at)}
    return await _resolved(evaluator, trigger.config.input, scope, "input")


async def event_input(evaluator: Evaluator, config: EventTrigger, event: Event) -> tuple[JsonValue, str]:
    """The input and the unit key of a run that is started by an event. Raises Unusable."""
    scope = _event_scope(event)
    given = event.payload if config.input is None else await _resolved(evaluator, config.input, scope, "input")
    return given, await unit_key(evaluator, config.correlation, scope)


async def matches(evaluator: Evaluator, config: EventTrigger, event: Event) -> bool:
    """Whether a trigger is for this event. A `match` that cannot be evaluated, for a missing field say, is not."""
    if config.match is None:
        return True
    try:
        return await evaluator.evaluate(config.match, _event_scope(event)) is True
    except ExpressionError:
        return False


async def unit_key(evaluator: Evaluator, source: str | None, scope: dict[str, JsonValue]) -> str:
    """The value of an expression as a unit key; empty when there is no expression. Raises Unusable."""
    if source is None:
        return ""
    try:
        if "{{" in source:
            value = await evaluator.resolve(compile_template(source), scope)
        else:
            value = await evaluator.evaluate(source, scope)
    except ExpressionError as error:
        raise Unusable(f"the unit key cannot be found: {error.message}") from None
    return "" if isinstance(value, SecretText) else as_text(value).replace("\x00", "")[:MAX_UNIT_KEY]


def manual_input(config: ManualTrigger, given: JsonValue) -> JsonValue:
    """What a person gave, on top of what the trigger begins with."""
    if isinstance(given, dict):
        return {**config.input, **given}
    return config.input if given is None else given


def _event_scope(event: Event) -> dict[str, JsonValue]:
    # As for `flow.wait`, `event` is the payload.
    return {"event": event.payload, "name": event.name}


def _about(trigger: StoredTrigger, scheduled_for: datetime, fired_at: datetime) -> dict[str, Any]:
    return {
        "id": str(trigger.id),
        "name": trigger.name,
        "scheduled_for": _text(scheduled_for),
        "fired_at": _text(fired_at),
    }


def _text(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


async def _resolved(
    evaluator: Evaluator, value: dict[str, Any] | str, scope: dict[str, JsonValue], what: str
) -> JsonValue:
    try:
        template = compile_template(value)
        if template.secret_names:
            raise Unusable(f"the {what} cannot hold a secret; refer to it in the step that needs it")
        return await evaluator.resolve(template, scope)
    except ExpressionError as error:
        raise Unusable(f"the {what} cannot be made: {error.message}") from None
