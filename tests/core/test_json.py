import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.json import MAX_DEPTH, JsonError, canonical, decode, depth, encode

_SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
)
_VALUES = st.recursive(
    _SCALARS | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def _depth(value) -> int:
    if isinstance(value, dict):
        return 1 + max((_depth(one) for one in value.values()), default=0)
    if isinstance(value, list):
        return 1 + max((_depth(one) for one in value), default=0)
    return 0


@settings(deadline=None)
@given(_VALUES)
def test_round_trip(value):
    assert decode(encode(value)) == value
    assert decode(encode(value).decode()) == value


@settings(deadline=None)
@given(_VALUES, st.integers(0, 6))
def test_depth_is_counted_no_further_than_the_limit(value, limit):
    assert depth(value) == _depth(value)
    assert depth(value, limit) == min(_depth(value), limit + 1)


@settings(deadline=None)
@given(_VALUES, st.integers(0, 6))
def test_deep_texts_are_refused_and_no_others(value, limit):
    text = encode(value)
    if _depth(value) > limit:
        with pytest.raises(JsonError, match="deeper"):
            decode(text, limit)
    else:
        assert decode(text, limit) == value


@settings(deadline=None)
@given(st.dictionaries(st.text(), _SCALARS))
def test_equal_values_have_equal_canonical_text(value):
    backwards = dict(reversed(value.items()))
    assert canonical(value) == canonical(backwards)


def test_hostile_texts():
    assert decode(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    for text in (
        b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
        b"[" * 100_000,
        b"",
        b"{",
        b"NaN",
        b'"\\ud800"',
        b"\xff",
    ):
        with pytest.raises(JsonError):
            decode(text)
    with pytest.raises(JsonError):
        decode("\ud800")
    assert decode(b'"' + b"[" * 1000 + b'"') == "[" * 1000


def test_what_is_not_json_is_refused():
    for value in (object(), {1: 2}, {"a": {1, 2}}, 2**70):
        with pytest.raises(JsonError):
            encode(value)
