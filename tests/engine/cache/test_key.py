"""What makes two calls equal."""

import random
from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from core.ids import WorkflowId
from core.json import canonical
from engine.cache.key import call_key, named_key
from engine.expression.secret import SecretName, SecretText

FLOW = WorkflowId(UUID(int=1))
scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    scalars | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner)
)
params = st.dictionaries(st.text(max_size=5), values, max_size=4)


def shuffled(value: Any, chance: random.Random) -> Any:
    if isinstance(value, dict):
        items = list(value.items())
        chance.shuffle(items)
        return {key: shuffled(one, chance) for key, one in items}
    return [shuffled(one, chance) for one in value] if isinstance(value, list) else value


@given(params, st.randoms(use_true_random=False))
def test_the_order_of_members_does_not_matter(one: dict[str, Any], chance: random.Random) -> None:
    assert call_key("n", "1.0.0", one) == call_key("n", "1.0.0", shuffled(one, chance))
    assert named_key(FLOW, "s", "n", one) == named_key(FLOW, "s", "n", shuffled(one, chance))


@given(params, params)
def test_other_parameters_give_another_key(one: dict[str, Any], other: dict[str, Any]) -> None:
    same = canonical(one) == canonical(other)
    assert (call_key("n", "1.0.0", one) == call_key("n", "1.0.0", other)) is same
    assert (named_key(FLOW, "s", "n", one) == named_key(FLOW, "s", "n", other)) is same


def test_what_else_belongs_to_it() -> None:
    other = WorkflowId(UUID(int=2))
    keys = [
        call_key("n", "1.0.0", {"a": 1}),
        call_key("n", "1.0.1", {"a": 1}),
        call_key("m", "1.0.0", {"a": 1}),
        call_key("n", "1.0.0", {"a": "1"}),
        call_key("n", "1.0.0", {"a": True}),
        named_key(FLOW, "s", "n", {"a": 1}),
        named_key(FLOW, "t", "n", {"a": 1}),
        named_key(other, "s", "n", {"a": 1}),
    ]
    assert len(set(keys)) == len(keys)


def test_a_text_that_looks_like_a_secret_is_not_the_secret() -> None:
    secret = SecretText(("Bearer ", SecretName("TOKEN")))
    keys = {
        call_key("n", "1.0.0", {"a": [secret, 1]}),
        call_key("n", "1.0.0", {"a": [str(secret), 1]}),
        call_key("n", "1.0.0", {"a": [SecretText(("Bearer ", SecretName("OTHER"))), 1]}),
    }
    assert len(keys) == 3
    assert call_key("n", "1.0.0", {"a": secret}) == call_key(
        "n", "1.0.0", {"a": SecretText(("Bearer ", SecretName("TOKEN")))}
    )
