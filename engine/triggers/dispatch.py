"""Starts the runs that an event triggers: each trigger once for each event, whoever finds the event."""

import asyncio
from datetime import timedelta

import structlog

from core.clock import Clock
from core.errors import Unavailable
from core.event import Event
from core.firing import Firing, FiringStatus, StoredTrigger
from core.ids import RunId
from core.trigger import EventTrigger
from engine.expression.evaluator import Evaluator
from engine.triggers.cron import context_of
from engine.triggers.inputs import Unusable, event_input, matches
from engine.triggers.ports import EventStore, FiringStore, TriggerStore
from engine.triggers.starter import Starter

_log = structlog.get_logger(__name__)

FORGOTTEN_SECONDS = 2.0
"""After this time any process dispatches an event that its receiver did not."""
_SWEEP_SECONDS = 1.0
_SWEEP_BATCH = 100


class Dispatch:
    """See the module."""

    def __init__(
        self,
        store: TriggerStore,
        firings: FiringStore,
        events: EventStore,
        starter: Starter,
        evaluator: Evaluator,
        clock: Clock,
    ) -> None:
        self._store = store
        self._firings = firings
        self._events = events
        self._starter = starter
        self._evaluator = evaluator
        self._clock = clock

    async def dispatch(self, event: Event) -> list[RunId]:
        """Start the runs that the event triggers; gives those that this call started. Raises Unavailable."""
        triggers = await self._store.for_event(event.workspace, event.name)
        found = [await self._firing(one, event) for one in triggers if one.created_at <= event.received_at]
        fresh = await self._firings.reserve([one for one in found if one is not None], event.id)
        reserved = [one for one in fresh if one.status is FiringStatus.RESERVED]
        settled = await asyncio.gather(*(self._starter.start_quietly(one) for one in reserved))
        return [one.run_id for one in settled if one is not None and one.run_id is not None]

    async def sweep(self) -> int:
        """Dispatch events that were forgotten; returns how many. Raises Unavailable."""
        before = self._clock.now() - timedelta(seconds=FORGOTTEN_SECONDS)
        events = await self._events.undispatched(before, _SWEEP_BATCH)
        for event in events:
            try:
                await self.dispatch(event)
            except Unavailable:
                raise
            except Exception:  # noqa: BLE001 -- task boundary: one event's fault must not cost the others
                _log.exception("an event could not be matched with the triggers", event_id=str(event.id))
        return len(events)

    async def keep_sweeping(self) -> None:
        """Sweep until cancelled."""
        while True:
            try:
                await self.sweep()
            except Unavailable as error:
                _log.warning("events wait for their triggers", detail=error.detail)
            except Exception:  # noqa: BLE001 -- task boundary: the sweep outlives its own faults
                _log.exception("the sweep of events stumbled")
            await asyncio.sleep(_SWEEP_SECONDS)

    async def _firing(self, trigger: StoredTrigger, event: Event) -> Firing | None:
        assert isinstance(trigger.config, EventTrigger)
        if not await matches(self._evaluator, trigger.config, event):
            return None
        given, unit, reason = None, "", None
        try:
            given, unit = await event_input(self._evaluator, trigger.config, event)
        except Unusable as error:
            reason = str(error)
        return Firing(
            id=self._clock.new_id(),
            trigger_id=trigger.id,
            workspace=trigger.workspace,
            workflow_id=trigger.workflow_id,
            key=str(event.id),
            run_id=RunId(self._clock.new_id()) if reason is None else None,
            status=FiringStatus.RESERVED if reason is None else FiringStatus.FAILED,
            at=self._clock.now(),
            input=given,
            context=context_of(trigger),
            unit_key=unit,
            created_by=f"trigger:{trigger.name}",
            reason=reason,
        )
