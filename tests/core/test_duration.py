import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.duration import format_duration, parse_duration

_YEAR = 366 * 86400.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("50ms", 0.05), ("5s", 5.0), ("5m", 300.0), ("1h", 3600.0), ("2d", 172_800.0), ("1h30m", 5400.0), ("1.5s", 1.5)],
)
def test_texts(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("value", ["", "5", "5 s", "5s\n", "-5s", "s", "5S", "1e3s", "٥s", "400d", "9" * 50 + "s"])
def test_other_texts_are_refused(value):
    with pytest.raises(ValueError, match=r"duration|366 days"):
        parse_duration(value)


@pytest.mark.parametrize("value", [True, None, [], -1, float("nan"), float("inf"), _YEAR + 1])
def test_other_values_are_refused(value):
    with pytest.raises(ValueError, match=r"duration|366 days"):
        parse_duration(value)


@settings(deadline=None)
@given(st.floats(0, _YEAR) | st.integers(0, int(_YEAR)))
def test_what_is_formatted_parses_to_the_same(value):
    seconds = parse_duration(value)
    text = format_duration(seconds)
    assert parse_duration(text) == seconds
    assert abs(seconds - value) <= 1e-6


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 999), st.sampled_from(["ms", "s", "m", "h"])), min_size=1, max_size=4))
def test_parts_add_up(parts):
    size = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
    total = sum(amount * size[unit] for amount, unit in parts)
    assert parse_duration("".join(f"{amount}{unit}" for amount, unit in parts)) == pytest.approx(total / 1000)


def test_the_largest_fitting_unit_is_used():
    assert [format_duration(seconds) for seconds in (0.0, 0.05, 5.0, 90.0, 300.0, 7200.0, 172_800.0)] == [
        "0ms", "50ms", "5s", "90s", "5m", "2h", "2d",
    ]  # fmt: skip
