from collections import Counter
from datetime import UTC, date, datetime, timedelta
from itertools import takewhile
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.triggers.schedule import BadSchedule, BadZone, Schedule

BERLIN = ZoneInfo("Europe/Berlin")
CHANGES = {
    "Europe/Berlin": (date(2026, 3, 29), date(2026, 10, 25)),
    "America/New_York": (date(2026, 3, 8), date(2026, 11, 1)),
}
ZONES = (*CHANGES, "Africa/Cairo", "Australia/Lord_Howe", "Asia/Kolkata", "America/Santiago", "UTC")


def times(text: str, zone: str, start: datetime, end: datetime) -> list[datetime]:
    return list(takewhile(lambda one: one < end, Schedule(text, zone).after(start)))


def local(text: str, zone: str, day: date) -> list[str]:
    """The times of one day, as the clock on the wall shows them, with the offset."""
    here = ZoneInfo(zone)
    start = datetime(day.year, day.month, day.day, tzinfo=here)
    found = times(text, zone, start - timedelta(microseconds=1), start + timedelta(days=1))
    return [one.astimezone(here).strftime("%H:%M%z") for one in found]


@pytest.mark.parametrize("zone", CHANGES)
def test_a_daily_time_that_is_jumped_over_comes_right_after_the_jump(zone: str) -> None:
    spring, _ = CHANGES[zone]
    assert [one[:5] for one in local("30 2 * * *", zone, spring)] == ["03:00"]


@pytest.mark.parametrize("zone", CHANGES)
def test_a_daily_time_in_the_doubled_hour_comes_once(zone: str) -> None:
    _, autumn = CHANGES[zone]
    doubled = "30 2 * * *" if zone == "Europe/Berlin" else "30 1 * * *"
    assert len(local(doubled, zone, autumn)) == 1


@pytest.mark.parametrize("zone", CHANGES)
def test_an_hourly_job_goes_by_the_hours_that_there_are(zone: str) -> None:
    spring, autumn = CHANGES[zone]
    assert len(local("0 * * * *", zone, spring)) == 23
    assert len(set(local("0 * * * *", zone, autumn))) == 25
    assert len(set(local("*/5 * * * *", zone, autumn))) == 25 * 12


def test_several_jumped_times_of_a_job_become_one() -> None:
    assert local("0,20,40 2 * * *", "Europe/Berlin", date(2026, 3, 29)) == ["03:00+0200"]


def test_from_within_the_second_of_the_doubled_hours_nothing_in_the_past_comes() -> None:
    second = datetime(2026, 10, 25, 2, 10, tzinfo=BERLIN, fold=1)
    assert Schedule("30 2 * * *", "Europe/Berlin").next_after(second) == datetime(2026, 10, 26, 2, 30, tzinfo=BERLIN)


@settings(max_examples=30, deadline=None)
@given(zone=st.sampled_from(ZONES), hour=st.integers(0, 23), minute=st.integers(0, 59))
def test_a_daily_job_runs_once_each_local_day_for_three_years(zone: str, hour: int, minute: int) -> None:
    here = ZoneInfo(zone)
    first, last = date(2025, 1, 1), date(2027, 12, 31)
    start = datetime(2025, 1, 1, tzinfo=here).astimezone(UTC) - timedelta(microseconds=1)
    end = datetime(2028, 1, 1, tzinfo=here).astimezone(UTC)
    days = Counter(one.astimezone(here).date() for one in times(f"{minute} {hour} * * *", zone, start, end))
    assert days == {first + timedelta(days=n): 1 for n in range((last - first).days + 1)}


@settings(max_examples=60, deadline=None)
@given(
    zone=st.sampled_from(ZONES),
    text=st.sampled_from(["*/5 * * * *", "30 2 * * *", "15 0,2,3 * * *", "0 */2 * * 1-5", "0 9 1 * *"]),
    days=st.integers(0, 700),
    minutes=st.integers(0, 1440),
)
def test_going_on_from_any_moment_gives_the_same_times(zone: str, text: str, days: int, minutes: int) -> None:
    """What a process that has just started sees is what one sees that has watched all the time."""
    schedule = Schedule(text, zone)
    start = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=days)
    middle = start + timedelta(minutes=minutes)
    watched = times(text, zone, start, start + timedelta(days=3))
    assert watched == sorted(set(watched))
    assert times(text, zone, middle, start + timedelta(days=3)) == [one for one in watched if one > middle]
    assert (
        schedule.last_between(start, start + timedelta(days=3) - timedelta(seconds=1), 7)
        == times(text, zone, start - timedelta(microseconds=1), start + timedelta(days=3))[-7:]
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("61 * * * *", "minute field `61`"),
        ("* * * *", "five fields"),
        ("* * * * * *", "five fields"),
        ("", "five fields"),
        ("@dayly", "@daily"),
        ("0 0 31 2 *", "day-of-month"),
        ("0 0 * * 9", "day-of-week"),
    ],
)
def test_a_bad_schedule_says_what_is_wrong_and_shows_a_right_one(text: str, said: str) -> None:
    with pytest.raises(BadSchedule, match=said) as found:
        Schedule(text)
    assert "*" in str(found.value) or "@" in str(found.value)


@pytest.mark.parametrize("name", ["Berlin", "europe/berlin", "Europe/Berln"])
def test_an_unknown_zone_names_the_nearest(name: str) -> None:
    with pytest.raises(BadZone) as found:
        Schedule("* * * * *", name)
    assert found.value.suggestion == "Europe/Berlin"


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "Europe", "tzdata.zi", "/etc/localtime"])
def test_what_is_no_zone_is_not_looked_for_in_files(name: str) -> None:
    with pytest.raises(BadZone):
        Schedule("* * * * *", name)
