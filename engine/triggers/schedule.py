"""Cron schedules in a time zone: when the next times are. Pure.

The rules are Debian cron's, and `cronsim` knows them: a job at a fixed time that the clocks jump over runs once right
after the jump, and one in the hour that comes twice runs once; jobs with `*` or `*/n` in minute or hour go by what the
clock on the wall shows.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from engine.wording import nearest

_ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_FIELDS = {"minute": "0-59", "hour": "0-23", "day-of-month": "1-31", "month": "1-12", "day-of-week": "0-7, 0 is Sunday"}
_FAR = timedelta(days=366 * 9)
"""Within this time every date comes up, the 29th of February too."""
_WINDOW = timedelta(hours=1)


class BadSchedule(ValueError):
    """The schedule is not one. The message is a sentence for its author, with an example."""


class BadZone(ValueError):
    """There is no such time zone.

    Attributes:
        suggestion: the nearest right name, where one exists.
    """

    def __init__(self, name: str) -> None:
        self.suggestion = _nearest_zone(name)
        super().__init__(f"there is no time zone `{name[:64]}`; names are those of IANA, such as Europe/Berlin")


class Schedule:
    """When something happens again and again.

    Args:
        text: five cron fields, or one of `@hourly @daily @weekly @monthly @yearly`.
        timezone: IANA name.

    Raises:
        BadSchedule, BadZone.
    """

    def __init__(self, text: str, timezone: str = "UTC") -> None:
        self._zone = _zone(timezone)
        self._fields = _checked(text)

    def after(self, moment: datetime) -> Iterator[datetime]:
        """All times after a moment, in UTC, ever later and without end."""
        last = moment
        # A fixed time in the doubled hour means its first occurrence: seen from the second one it lies in the past.
        for found in CronSim(self._fields, moment.astimezone(self._zone)):
            utc = found.astimezone(UTC)
            if utc > last:
                yield utc
                last = utc

    def next_after(self, moment: datetime) -> datetime:
        """The first time after a moment, in UTC."""
        return next(self.after(moment))

    def last_between(self, start: datetime, end: datetime, most: int) -> list[datetime]:
        """The last times, at most `most`, from `start` to `end`, both inclusive. Costs no more for a longer time."""
        window = _WINDOW
        while True:
            begin = max(start, end - window) - timedelta(microseconds=1)
            found = []
            for one in self.after(begin):
                if one > end:
                    break
                found.append(one)
            if len(found) >= most or begin < start:
                return found[-most:]
            window *= 2


@lru_cache(maxsize=1)
def zone_names() -> frozenset[str]:
    """All time zones that are known here."""
    return frozenset(available_timezones())


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    if name not in zone_names():  # ZoneInfo would also look at files that are none
        raise BadZone(name)
    return ZoneInfo(name)


def _nearest_zone(name: str) -> str | None:
    wanted = name.casefold().replace(" ", "_")
    for one in sorted(zone_names()):
        if one.casefold() == wanted or one.casefold().rpartition("/")[2] == wanted.rpartition("/")[2]:
            return one
    return nearest(name, sorted(zone_names()))


def _checked(text: str) -> str:
    fields = _ALIASES.get(text.strip().lower(), text)
    if fields.startswith("@"):
        raise BadSchedule(f"`{text[:40]}` is not known; write five fields such as `0 6 * * 1-5`, or @daily")
    count = len(fields.split())
    if count != 5:
        raise BadSchedule(
            f"a schedule has five fields (minute, hour, day of month, month, day of week), not {count}; "
            "for example `*/5 * * * *` for every five minutes"
        )
    try:
        first = next(CronSim(fields, _SOME_TIME))
    except CronSimError as error:
        raise BadSchedule(_reason(str(error), fields)) from None
    except StopIteration:
        first = _SOME_TIME + _FAR + _FAR
    if first > _SOME_TIME + _FAR:
        raise BadSchedule("no date fits it; for example `0 0 1 * *` for the first of each month")
    return fields


_SOME_TIME = datetime(2026, 1, 1, tzinfo=UTC)


def _reason(said: str, fields: str) -> str:
    name = said.removeprefix("Bad ")
    if name not in _FIELDS:
        return f"it cannot be read ({said}); for example `*/5 * * * *` for every five minutes"
    text = fields.split()[list(_FIELDS).index(name)]
    hint = "for example `30 6 * * 1-5` for 6:30 on workdays"
    return f"the {name} field `{text[:40]}` is not right ({_FIELDS[name]}); {hint}"
