"""Which of the times that are due a cron trigger fires for, when some have passed while no server ran. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from core.trigger import CronTrigger
from engine.triggers.schedule import Schedule

MOST = 100
"""Times that `missed: all` makes up for."""

GRACE = timedelta(seconds=60)
"""A time that is less late than this was not missed: the server was only slow, or just restarted."""


@dataclass(frozen=True, slots=True)
class Due:
    """What to do about the times up to now.

    Attributes:
        fire: times to fire for, oldest first.
        skipped: the first and the last of the times that are passed over; None when there are none.
        next_at: the first time that is not due yet.
    """

    fire: tuple[datetime, ...]
    skipped: tuple[datetime, datetime] | None
    next_at: datetime


def due(trigger: CronTrigger, next_at: datetime, now: datetime) -> Due:
    """What is due at `now`, when the trigger was to fire at `next_at` next.

    Times within GRACE always fire. Of older ones, `all` fires the last MOST, `once` the last one if none is within
    GRACE, `skip` none.
    """
    schedule = Schedule(trigger.schedule, trigger.timezone)
    times = schedule.last_between(next_at, now, MOST)
    recent = [one for one in times if now - one <= GRACE]
    missed = times[: len(times) - len(recent)]
    match trigger.missed:
        case "all":
            fire: Sequence[datetime] = times
        case "once":
            fire = recent or missed[-1:]
        case "skip":
            fire = recent
    passed = [one for one in missed if one not in fire]
    first = next_at if times and times[0] > next_at else passed[0] if passed else None
    skipped = None if first is None else (first, _last_before(schedule, fire, passed, first))
    return Due(tuple(fire), skipped, schedule.next_after(now))


def _last_before(schedule: Schedule, fire: Sequence[datetime], passed: Sequence[datetime], first: datetime) -> datetime:
    if passed:
        return passed[-1]
    # More than MOST times were due, and all of the last ones fire: the last of the others is just before these.
    return schedule.last_between(first, fire[0] - timedelta(microseconds=1), 1)[-1]
