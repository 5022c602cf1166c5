import math
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.routing.draw import draw, normalised, position, with_floor

WEIGHTS = st.dictionaries(st.sampled_from("abcdefgh"), st.floats(0, 100), min_size=1).filter(
    lambda weights: sum(weights.values()) > 1e-3
)


def within_binomial(count: int, calls: int, share: float, sigmas: float = 3.9) -> bool:
    """Whether so many hits are in the interval that 9,999 of 10,000 fair draws are in."""
    return abs(count - calls * share) <= sigmas * math.sqrt(calls * share * (1 - share))


@pytest.mark.parametrize("revision", [1, 2, 7])
def test_shares_hold_over_many_units(revision: int) -> None:
    shares = {"1.0.0": 0.9, "2.0.0": 0.1}
    drawn = [draw(shares, position("payment.charge", revision, f"run-{n}")) for n in range(20_000)]
    assert within_binomial(Counter(drawn)["2.0.0", 0.1], 20_000, 0.1)
    assert {one[0] for one in drawn} == {"1.0.0", "2.0.0"}


def test_units_stand_elsewhere_in_another_revision_or_node() -> None:
    shares = {"a": 0.5, "b": 0.5}
    places = [("n", 1), ("n", 2), ("m", 1)]
    drawn = [[draw(shares, position(*place, str(unit)))[0] for unit in range(4_000)] for place in places]
    for other in drawn[1:]:
        same = sum(one == two for one, two in zip(drawn[0], other, strict=True))
        assert within_binomial(same, 4_000, 0.5)


@given(st.text(), st.integers(0, 10**9), st.text())
def test_a_unit_stands_still_in_the_unit_interval(node: str, revision: int, unit: str) -> None:
    at = position(node, revision, unit)
    assert 0 <= at < 1
    assert position(node, revision, unit) == at


@given(WEIGHTS, st.floats(0, 1, exclude_max=True))
def test_the_drawn_arm_has_a_share(weights: dict[str, float], at: float) -> None:
    shares = normalised(weights)
    version, probability = draw(shares, at)
    assert probability == shares[version] > 0


@given(WEIGHTS, st.floats(0, 0.5))
def test_a_floor_lifts_all_who_have_something(weights: dict[str, float], floor: float) -> None:
    shares = normalised(weights)
    lifted = with_floor(shares, floor)
    live = [version for version, share in shares.items() if share > 0]
    assert math.isclose(sum(lifted.values()), 1, abs_tol=1e-9)
    assert all(lifted[version] >= min(floor, 1 / len(live)) - 1e-9 for version in live)
    assert all(lifted[version] == 0 for version in shares if version not in live)
    # Who had more still has no less.
    ordered = sorted(live, key=lambda version: shares[version])
    assert all(lifted[low] <= lifted[high] + 1e-9 for low, high in pairwise(ordered))


def test_nobody_to_draw() -> None:
    with pytest.raises(ValueError, match="nothing"):
        normalised({"a": 0.0})
    with pytest.raises(ValueError, match="nobody"):
        draw({"a": 0.0}, 0.5)
