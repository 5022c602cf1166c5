import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ErrorClass
from core.route import Breaker
from engine.routing.breaker import BreakerState, Circuit, Verdict, Window, verdict

RULE = Breaker(min_calls=10, failure_rate=0.5, window=60.0, cooldown=30.0, max_cooldown=100.0)


def opened(at: float = 0.0) -> Circuit:
    circuit = Circuit()
    for _ in range(10):
        circuit.note(RULE, True, at)
    assert circuit.state(at) is BreakerState.OPEN
    return circuit


def test_it_takes_calls_enough_and_failures_enough() -> None:
    circuit = Circuit()
    assert not any(circuit.note(RULE, True, 1.0) for _ in range(9))
    assert circuit.note(RULE, True, 1.0)
    assert circuit.opened is not None
    assert (circuit.opened.until, circuit.opened.calls, circuit.opened.failures) == (31.0, 10, 10)
    steady = Circuit()
    for n in range(200):
        assert not steady.note(RULE, n % 3 == 0, n * 0.01)


def test_old_calls_do_not_count() -> None:
    circuit = Circuit()
    for _ in range(9):
        circuit.note(RULE, True, 0.0)
    assert not circuit.note(RULE, True, 61.0)
    assert circuit.window.totals(60.0, 61.0) == (1, 1)


def test_half_open_after_the_cooldown_and_closed_by_a_probe() -> None:
    circuit = opened()
    assert circuit.state(29.9) is BreakerState.OPEN
    assert circuit.state(30.0) is BreakerState.HALF_OPEN
    circuit.probed(RULE, False, 30.5)
    assert circuit.state(30.5) is BreakerState.CLOSED
    assert circuit.window.totals(60.0, 30.5) == (0, 0)


def test_the_cooldown_doubles_up_to_its_cap_and_begins_anew() -> None:
    circuit = opened()
    now, cooldowns = 0.0, []
    for _ in range(4):
        assert circuit.opened is not None
        now = circuit.opened.until
        circuit.probed(RULE, True, now)
        cooldowns.append(circuit.opened.cooldown)
    assert cooldowns == [60.0, 100.0, 100.0, 100.0]
    circuit.probed(RULE, False, now)
    for _ in range(10):
        circuit.note(RULE, True, now)
    assert circuit.opened is not None
    assert circuit.opened.cooldown == 30.0


def test_late_results_change_nothing_while_it_is_open() -> None:
    circuit = opened()
    before = circuit.opened
    assert not circuit.note(RULE, False, 1.0)
    assert not circuit.note(RULE, True, 1.0)
    assert circuit.opened == before


@given(st.lists(st.tuples(st.floats(0, 20), st.booleans()), max_size=200))
def test_the_window_is_the_last_while(calls: list[tuple[float, bool]]) -> None:
    window, now, known = Window(), 0.0, []
    for pause, failed in calls:
        now += pause
        known.append((now, failed))
        window.add(failed, 60.0, now)
        seen, failures = window.totals(60.0, now)
        # A bucket is a twentieth of the window.
        surely = [one for one in known if one[0] > now - 57.0]
        at_most = [one for one in known if one[0] >= now - 60.0]
        assert len(surely) <= seen <= len(at_most)
        assert sum(one[1] for one in surely) <= failures <= sum(one[1] for one in at_most)


@pytest.mark.parametrize(
    ("said", "classes"),
    [
        (Verdict.BAD, ["network", "timeout", "rate_limited", "auth", "upstream_5xx", "decode", "internal", "new_one"]),
        (Verdict.NOTHING, ["invalid_input", "upstream_4xx", "expression", "policy", "cancelled", "worker_lost"]),
        (Verdict.GOOD, [None]),
    ],
)
def test_whose_fault_it_is(said: Verdict, classes: list[str | None]) -> None:
    assert [verdict(one) for one in classes] == [said] * len(classes)


def test_every_class_has_a_verdict() -> None:
    assert {verdict(one) for one in ErrorClass} == {Verdict.BAD, Verdict.NOTHING}
