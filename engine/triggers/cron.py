"""Fires cron triggers when their time has come: each time once, however many processes watch the clock.

A process plans what is due, then claims it: the firings and the next time are written in one transaction, which finds
the trigger as it was planned or does nothing. Only then are the runs started.
"""

import asyncio
from datetime import datetime, timedelta

import structlog

from core.clock import Clock
from core.errors import Unavailable
from core.firing import Claim, Firing, FiringStatus, StoredTrigger
from core.ids import RunId
from core.trigger import CronTrigger
from engine.expression.evaluator import Evaluator
from engine.triggers.inputs import Unusable, cron_input
from engine.triggers.missed import due
from engine.triggers.ports import TriggerStore
from engine.triggers.schedule import BadSchedule, BadZone
from engine.triggers.starter import Starter

_log = structlog.get_logger(__name__)

_BEAT_SECONDS = 0.5
_BATCH = 50
_AT_ONCE = 20
_BROKEN_RETRY = timedelta(hours=1)


class CronLoop:
    """See the module."""

    def __init__(self, store: TriggerStore, starter: Starter, evaluator: Evaluator, clock: Clock) -> None:
        self._store = store
        self._starter = starter
        self._evaluator = evaluator
        self._clock = clock

    async def run(self) -> None:
        """Fire until cancelled."""
        while True:
            taken = 0
            try:
                taken = await self.fire_due()
            except Unavailable as error:
                _log.warning("cron triggers wait", detail=error.detail)
            except Exception:  # noqa: BLE001 -- task boundary: the loop outlives its own faults
                _log.exception("the cron loop stumbled")
            if taken < _BATCH:
                await asyncio.sleep(_BEAT_SECONDS - self._clock.now().timestamp() % _BEAT_SECONDS)

    async def fire_due(self) -> int:
        """Fire what is due now; returns how many triggers were. Raises Unavailable."""
        now = self._clock.now()
        triggers = await self._store.due(now, _BATCH)
        if not triggers:
            return 0
        claims = [await self._plan(trigger, now) for trigger in triggers]
        taken = [one for one in await self._store.claim(claims) if one.status is FiringStatus.RESERVED]
        for start in range(0, len(taken), _AT_ONCE):
            await asyncio.gather(*(self._starter.start_quietly(one) for one in taken[start : start + _AT_ONCE]))
        return len(triggers)

    async def _plan(self, trigger: StoredTrigger, now: datetime) -> Claim:
        assert trigger.next_at is not None
        assert isinstance(trigger.config, CronTrigger)
        try:
            found = due(trigger.config, trigger.next_at, now)
        except (BadSchedule, BadZone) as error:
            # It was right when it was stored: another library or zone database is at work here.
            reason = f"the schedule cannot be read any more: {error}"
            broken = self._firing(trigger, trigger.next_at, now, FiringStatus.FAILED, reason)
            return Claim(trigger.id, trigger.next_at, now + _BROKEN_RETRY, (broken,))
        firings = []
        if found.skipped is not None:
            first, last = found.skipped
            until = "" if first == last else f", and all until {last.isoformat()}"
            reason = f"this time passed while no server ran{until}; `missed` is `{trigger.config.missed}`"
            firings.append(self._firing(trigger, first, now, FiringStatus.SKIPPED, reason))
        firings += [await self._fired(trigger, one, now) for one in found.fire]
        return Claim(trigger.id, trigger.next_at, found.next_at, tuple(firings))

    async def _fired(self, trigger: StoredTrigger, scheduled_for: datetime, now: datetime) -> Firing:
        try:
            given = await cron_input(self._evaluator, trigger, scheduled_for, now)
        except Unusable as error:
            return self._firing(trigger, scheduled_for, now, FiringStatus.FAILED, str(error))
        return self._firing(trigger, scheduled_for, now, FiringStatus.RESERVED, None, given)

    def _firing(
        self,
        trigger: StoredTrigger,
        scheduled_for: datetime,
        now: datetime,
        status: FiringStatus,
        reason: str | None,
        given: object = None,
    ) -> Firing:
        return Firing(
            id=self._clock.new_id(),
            trigger_id=trigger.id,
            workspace=trigger.workspace,
            workflow_id=trigger.workflow_id,
            key=scheduled_for.isoformat(),
            run_id=RunId(self._clock.new_id()) if status is FiringStatus.RESERVED else None,
            status=status,
            at=now,
            input=given,
            context=context_of(trigger),
            created_by=f"trigger:{trigger.name}",
            scheduled_for=scheduled_for,
            reason=reason,
        )


def context_of(trigger: StoredTrigger) -> dict[str, str]:
    """What runs of a trigger say about their situation."""
    return {"trigger": trigger.name, "trigger_type": trigger.config.type}
