from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.trigger import CronTrigger
from engine.triggers.missed import GRACE, MOST, due
from engine.triggers.schedule import Schedule

NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)


def hourly(missed: str, **more: str) -> CronTrigger:
    return CronTrigger.model_validate({"type": "cron", "schedule": "0 * * * *", "missed": missed, **more})


def hours(*ago: int) -> tuple[datetime, ...]:
    return tuple(NOON - timedelta(hours=one) for one in ago)


def test_in_time_all_policies_fire() -> None:
    for missed in ("skip", "once", "all"):
        found = due(hourly(missed), NOON, NOON + timedelta(seconds=2))
        assert (found.fire, found.skipped, found.next_at) == (hours(0), None, NOON + timedelta(hours=1))


@pytest.mark.parametrize(
    ("missed", "fire", "skipped"),
    [
        ("skip", (), hours(3, 0)),
        ("once", hours(0), hours(3, 1)),
        ("all", hours(3, 2, 1, 0), None),
    ],
)
def test_after_an_outage(missed: str, fire: tuple[datetime, ...], skipped: tuple[datetime, ...] | None) -> None:
    found = due(hourly(missed), NOON - timedelta(hours=3), NOON + timedelta(minutes=10))
    assert (found.fire, found.skipped) == (fire, skipped)


@pytest.mark.parametrize(
    ("missed", "fire", "skipped"), [("skip", hours(0), hours(3, 1)), ("once", hours(0), hours(3, 1))]
)
def test_a_time_that_is_there_now_stands_for_those_that_were_missed(
    missed: str, fire: tuple[datetime, ...], skipped: tuple[datetime, ...]
) -> None:
    found = due(hourly(missed), NOON - timedelta(hours=3), NOON + timedelta(seconds=5))
    assert (found.fire, found.skipped) == (fire, skipped)


def test_all_makes_up_for_a_hundred_at_most() -> None:
    trigger = hourly("all", schedule="* * * * *")
    found = due(trigger, NOON - timedelta(days=300), NOON)
    assert len(found.fire) == MOST
    assert found.fire[-1] == NOON
    assert found.skipped == (NOON - timedelta(days=300), found.fire[0] - timedelta(minutes=1))


@settings(max_examples=100, deadline=None)
@given(
    missed=st.sampled_from(["skip", "once", "all"]),
    schedule=st.sampled_from(["*/7 * * * *", "0 * * * *", "30 2 * * *", "15 8 * * 1"]),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"]),
    late=st.integers(0, 3 * 86_400),
)
def test_no_time_is_lost_or_fired_twice(missed: str, schedule: str, zone: str, late: int) -> None:
    trigger = hourly(missed, schedule=schedule, timezone=zone)
    first = Schedule(schedule, zone).next_after(datetime(2026, 3, 27, tzinfo=UTC))
    now = first + timedelta(seconds=late)
    found = due(trigger, first, now)
    times = Schedule(schedule, zone).last_between(first, now, 10_000)
    assert set(found.fire) <= set(times)
    assert sorted(set(found.fire)) == list(found.fire)
    assert found.next_at > now
    assert {one for one in times if now - one <= GRACE} <= set(found.fire)
    for one in set(times) - set(found.fire):
        assert found.skipped is not None
        assert found.skipped[0] <= one <= found.skipped[1]
    if missed == "all":
        assert list(found.fire) == times[-MOST:]
