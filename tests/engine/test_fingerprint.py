import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.fingerprint import fingerprint


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("order 17 not found", "order 90210 not found"),
        ("card 'tok_visa' declined", "card 'tok_mc' declined"),
        ("no user 550e8400-e29b-41d4-a716-446655440000", "no user 123e4567-e89b-12d3-a456-426614174000"),
        ("charge ch_3NxAb9Qz failed", "charge ch_1QQfE77abcd failed"),
        ("at 2026-01-01T10:00:00Z: lost", "at 2025-12-31 23:59:59.123: lost"),
        ("GET https://a.b/v1/users/17?x=1 failed", "GET https://a.b/v1/users/4?y=2&z=3 failed"),
        ("bob@example.org is unknown", "eve.x@mail.example.com is unknown"),
        ("hash d41d8cd98f00b204e9800998ecf8427e", "hash 0cc175b9c0f1b6a831c399e269772661"),
        ("took 1.5 s", "took 12,345.6 s"),
        ("Timed  out", "timed out"),
    ],
)
def test_the_same_failure_with_other_values_is_the_same(one: str, other: str) -> None:
    assert fingerprint("x", one) == fingerprint("x", other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("connection refused", "connection reset"),
        ("https://a.b/users failed", "https://a.b/orders failed"),
        ("missing parameter amount", "missing parameter currency"),
    ],
)
def test_other_failures_are_others(one: str, other: str) -> None:
    assert fingerprint("x", one) != fingerprint("x", other)


def test_the_class_counts() -> None:
    assert fingerprint("network", "m") != fingerprint("timeout", "m")


@given(st.text(max_size=300), st.integers(0, 10**12), st.integers(0, 10**12))
def test_numbers_never_count(text: str, one: int, other: int) -> None:
    assert fingerprint("x", f"order {one} failed: {text}") == fingerprint("x", f"order {other} failed: {text}")
    assert len(fingerprint("x", text)) == 16


@pytest.mark.parametrize("part", ["a-", "1", "a.b", "'", "a@", "1,", "http://x", "a1", "-", "\ud800", "x" * 50])
def test_no_message_is_slow(part: str) -> None:
    begun = time.perf_counter()
    fingerprint("x", part * 100_000)
    assert time.perf_counter() - begun < 0.05
