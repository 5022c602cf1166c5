from hypothesis import given
from hypothesis import strategies as st

from engine.composition.literal import join_literal, split_literal

_KEYS = st.sampled_from(["a", "b", "steps", "outputs"])
_VALUES = st.recursive(
    st.integers() | st.text(max_size=3), lambda inner: st.dictionaries(_KEYS, inner) | st.lists(inner), max_leaves=12
)


@given(st.dictionaries(_KEYS, _VALUES), st.lists(st.sampled_from(["steps", "a.*.steps", "a.*.outputs", "b.steps"])))
def test_what_was_split_is_joined_again(params, fields):
    before = repr(params)
    rest, literal = split_literal(params, dict.fromkeys(fields))
    assert join_literal(rest, literal) == params
    assert repr(params) == before


def test_only_the_literal_parts_are_taken():
    branches = {"x": {"steps": [1], "input": "{{ a }}"}, "y": {"workflow": "w"}, "z": "{{ b }}"}
    rest, literal = split_literal({"branches": branches, "mode": "all"}, ("branches.*.steps", "until"))
    assert literal == {"branches": {"x": {"steps": [1]}}}
    assert rest == {"branches": {"x": {"input": "{{ a }}"}, "y": {"workflow": "w"}, "z": "{{ b }}"}, "mode": "all"}
