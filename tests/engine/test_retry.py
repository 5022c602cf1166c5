import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import TRANSIENT, ErrorClass
from core.spec import Retry
from engine.retry import MAX_RETRY_AFTER, RetryPolicy, delay_before_next

_SECONDS = st.floats(0, 10_000)
_CHANCE = st.floats(0, 1, exclude_max=True)
_POLICIES = st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, 100),
    initial=_SECONDS,
    factor=st.floats(1, 100),
    max_delay=_SECONDS,
    jitter=st.booleans(),
    on=st.frozensets(st.sampled_from(ErrorClass)),
)


@settings(deadline=None)
@given(_POLICIES, st.integers(1, 100), _CHANCE)
def test_the_delay_lies_between_half_the_backoff_and_the_cap(policy, tries, chance):
    delay = delay_before_next(policy, tries, ErrorClass.NETWORK, None, chance)
    if tries >= policy.max_attempts or ErrorClass.NETWORK not in policy.on:
        assert delay is None
        return
    backoff = min(policy.initial * policy.factor ** (tries - 1), policy.max_delay)
    assert delay is not None
    assert delay <= backoff <= policy.max_delay
    assert delay >= backoff / 2 if policy.jitter else delay == backoff


@settings(deadline=None)
@given(_POLICIES, st.floats(0, 0.999), st.floats(0, 0.999))
def test_jitter_draws_from_the_whole_half(policy, low, high):
    def delay(chance):
        return delay_before_next(policy, 1, ErrorClass.NETWORK, None, chance)

    first, second = sorted((low, high))
    if delay(first) is not None:
        assert delay(first) <= delay(second)
        if policy.jitter and delay(0.0) > 1e-6:
            assert delay(0.999) > 1.99 * delay(0.0)


@settings(deadline=None)
@given(_POLICIES, st.floats(allow_nan=True, allow_infinity=True), _CHANCE)
def test_retry_after_is_honoured_and_capped(policy, retry_after, chance):
    plain = delay_before_next(policy, 1, ErrorClass.RATE_LIMITED, None, chance)
    delay = delay_before_next(policy, 1, ErrorClass.RATE_LIMITED, retry_after, chance)
    if plain is None:
        assert delay is None
        return
    assert delay is not None
    assert plain <= delay <= max(plain, MAX_RETRY_AFTER)
    if not math.isnan(retry_after):
        assert delay >= min(retry_after, MAX_RETRY_AFTER)


@settings(deadline=None)
@given(_POLICIES, st.sampled_from(ErrorClass), _CHANCE)
def test_attempts_are_bounded(policy, error_class, chance):
    attempts = 1
    while delay_before_next(policy, attempts, error_class, None, chance) is not None:
        attempts += 1
        assert attempts <= policy.max_attempts
    assert attempts == (policy.max_attempts if error_class in policy.on else 1)


def test_without_a_policy_there_is_one_attempt():
    assert delay_before_next(RetryPolicy.of(None), 1, ErrorClass.NETWORK, None, 0.5) is None


def test_the_policy_is_the_one_of_the_spec():
    retry = Retry.model_validate({"max_attempts": 4, "initial": "100ms", "factor": 3, "max": "500ms", "jitter": False})
    policy = RetryPolicy.of(retry)
    delays = [delay_before_next(policy, tries, ErrorClass.TIMEOUT, None, 0.0) for tries in (1, 2, 3, 4)]
    assert delays == [pytest.approx(0.1), pytest.approx(0.3), 0.5, None]
    assert policy.on == TRANSIENT
