"""Parameters survive the way to a worker, and no text of a user becomes a secret on it."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from core.json import decode, encode
from engine.expression.secret import SecretName, SecretText
from engine.remote.parcel import pack, unpack

NAMES = st.from_regex(r"[A-Z_]{1,8}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.just("{{ secrets.TOKEN }}")
SECRETS = st.lists(TEXTS | NAMES.map(SecretName), min_size=1, max_size=4).map(lambda parts: SecretText(tuple(parts)))
SCALARS = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS
KEYS = TEXTS | st.sampled_from(["secret", "secrets", "at", "parts", "values"])
VALUES = st.recursive(
    SCALARS | SECRETS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_there_and_back(params: dict[str, Any]) -> None:
    assert unpack(decode(encode(pack(params)))) == params


@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_the_values_hold_no_placeholder(params: dict[str, Any]) -> None:
    parcel = pack(params)
    assert all(isinstance(part, str) or set(part) == {"secret"} for one in parcel["secrets"] for part in one["parts"])
    assert "SecretText" not in repr(type_names(parcel["values"]))


def type_names(value: Any) -> set[str]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return {type(value).__name__}.union(*(type_names(one) for one in inner))
