import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.expression.secret import SecretName, SecretText
from engine.features import MAX_FEATURES, features

TOKENS = [
    "sk_live_4eC39HqLyjWDarjtT1zdp7dc", "AKIAIOSFODNN7EXAMPLE", "ghp_16C7e42F292c6912E7710c838347Ae17884",
    "eyJhbGciOiJIUzI1NiJ9", "550e8400-e29b-41d4-a716-446655440000", "d41d8cd98f00b204e9800998ecf8427e",
    "bob@example.org",     "4242424242424242", "JBSWY3DPEHPK3PXP", "xoxb-123-abc",
    "+4915112345678", "kR7mQ2zP9xL4", "qzXWvTbnKpLmRtSg",
    "some free text, of a person", "DE89370400440532013000", "cus_9s8d7f6g5h", "https://x.y/z",
]  # fmt: skip


@pytest.mark.parametrize("token", TOKENS)
def test_what_may_identify_or_open_is_left_out(token: str) -> None:
    numbers, texts = features({"field": token, "body": {"field": token}})
    assert texts == {}
    assert numbers["field.length"] == len(token)


@pytest.mark.parametrize("word", ["EUR", "enterprise", "eu-west-1", "pending_review", "v1.2", "gpt-4o-mini", "POST"])
def test_plain_words_are_kept(word: str) -> None:
    assert features({"field": word})[1] == {"field": word}


def test_numbers_sizes_and_paths() -> None:
    value = {
        "amount": 12.5, "ok": True, "none": None, "items": [1, 2, 3], "huge": 10**400, "nan": float("nan"),
        "body": {"n": 1, "inner": {"n": 2, "deep": {"n": 3}}},
    }  # fmt: skip
    numbers, texts = features(value)
    assert numbers == {"amount": 12.5, "ok": 1.0, "items.size": 3.0, "body.n": 1.0, "body.inner.n": 2.0}
    assert texts == {}


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("31/12/2026", "dd/mm/yyyy"),
        ("05/06/2026", "dd/mm/yyyy"),
        ("12/31/2026", "mm/dd/yyyy"),
        ("2026-12-31", "yyyy-mm-dd"),
        ("2026-12-31T10:00:00Z", "yyyy-mm-dd+time"),
        ("31.12.26", "dd.mm.yy"),
    ],
)
def test_a_date_is_kept_as_its_shape(text: str, shape: str) -> None:
    assert features({"day": text})[1] == {"day.shape": shape}


@pytest.mark.parametrize(
    "name", ["password", "api_key", "apiKey", "X-Api-Key", "Authorization", "auth", "access_token", "client_secret",
             "cookie", "Set-Cookie", "user_password", "passwd", "session_id", "cvv"]
)  # fmt: skip
def test_secret_names_and_fields_are_not_looked_at(name: str) -> None:
    assert features({name: "plain", "body": {name: {"deep": 1}}}) == ({}, {})
    assert features({"headers": {"a": "b"}, "n": 1}, ("headers",)) == ({"n": 1.0}, {})


def test_an_unrevealed_secret_is_passed_over() -> None:
    secret = SecretText(("Bearer ", SecretName("KEY")))
    assert features({"body": {"x": secret, "n": 1}, "y": secret}) == ({"body.n": 1.0}, {})


names = st.sampled_from(["amount", "body", "items", "plan", "note", "headers", "x" * 60, "a b", "password"])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40)
values = st.recursive(
    scalars | st.sampled_from(TOKENS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names | st.text(max_size=8), inner, max_size=8),
    max_leaves=60,
)


@given(st.dictionaries(names | st.text(max_size=8), values, max_size=80))
def test_bounds_hold_and_no_token_leaks(value: dict[str, Any]) -> None:
    numbers, texts = features(value, ("headers",))
    assert features(value, ("headers",)) == (numbers, texts)
    assert len(numbers) + len(texts) <= MAX_FEATURES
    assert not {name for name in {**numbers, **texts} if "password" in name or name.startswith("headers")}
    assert not set(texts.values()) & set(TOKENS)
    assert all(len(text) <= 32 for text in texts.values())


def test_the_work_is_bounded() -> None:
    large = {"a": {f"key{n}": "v" * 100 for n in range(100_000)}, "list": ["x"] * 1_000_000}
    large |= {f"k{n}": {"x": n} for n in range(10_000)}
    begun = time.perf_counter()
    numbers, texts = features(large)
    assert time.perf_counter() - begun < 0.02
    assert len(numbers) + len(texts) <= MAX_FEATURES
    assert numbers["list.size"] == 1_000_000
