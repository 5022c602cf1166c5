import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.expression.errors import ExpressionSyntaxError
from engine.expression.evaluator import Evaluator
from engine.expression.template import compile_template

SCOPE = {"input": {"a": 1, "s": "{{ input.a }}", "o": {"k": [1, None]}, "n": None}, "steps": {"x": {"output": 2.5}}}


async def resolve(value, scope=None):
    evaluator = Evaluator()
    try:
        return await evaluator.resolve(compile_template(value), scope or SCOPE)
    finally:
        await evaluator.aclose()


async def test_types_are_kept_and_text_is_joined() -> None:
    value = {
        "whole": " {{ input.o }}\n",
        "text": "a={{ input.a }} n={{ input.n }} o={{ input.o }} x={{ steps.x.output }} t={{ input.a == 1 }}",
        "list": [1, "{{ input.a }}", {"deep": "{{ input.a + 1 }}"}],
        "{{ input.a }}": "keys stay",
    }
    assert await resolve(value) == {
        "whole": {"k": [1, None]},
        "text": 'a=1 n= o={"k":[1,null]} x=2.5 t=true',
        "list": [1, 1, {"deep": 2}],
        "{{ input.a }}": "keys stay",
    }


async def test_results_are_never_evaluated_again() -> None:
    assert await resolve("{{ input.s }}") == "{{ input.a }}"
    assert await resolve("<{{ input.s }}>") == "<{{ input.a }}>"


async def test_escapes() -> None:
    assert await resolve("\\{{ a }}") == "{{ a }}"
    assert await resolve("\\{{ {{ input.a }} \\{{ }}") == "{{ 1 {{ }}"
    assert await resolve(["\\{{"]) == ["{{"]
    assert await resolve("}} {") == "}} {"


def test_what_a_template_tells() -> None:
    template = compile_template(
        {
            "url": "x/{{ steps.a.output.id }}",
            "body": {"items": [0, "{{ steps['b c'].output + input.n }}"]},
            "h": "{{ secrets.T }}",
        }
    )
    assert template.step_ids == {"a", "b c"}
    assert template.secret_names == {"T"}
    assert [str(one) for one in template.references] == ["steps.a.output.id", 'steps["b c"].output', "input.n"]
    assert [(one.path, one.whole) for one in template.expressions] == [
        ("$.url", False),
        ("$.body.items[1]", True),
        ("$.h", True),
    ]
    assert not template.is_constant
    assert compile_template({"a": ["b", 1, None, "\\{{"]}).is_constant


@pytest.mark.parametrize(
    ("text", "position", "said"),
    [
        ("ab {{ input.a", 3, "no `}}`"),
        ("{{ }}", 0, "empty"),
        ("{{ 1 + }}", 3, "unexpected"),
        ("{{ a b }}", 2, "unexpected"),
    ],
)
def test_faults_have_path_and_position(text: str, position: int, said: str) -> None:
    with pytest.raises(ExpressionSyntaxError, match=said) as caught:
        compile_template({"x": [text]})
    assert (caught.value.path, caught.value.position) == ("$.x[0]", position)


def test_bounds() -> None:
    deep: list = []
    for _ in range(20_000):
        deep = [deep]
    with pytest.raises(ExpressionSyntaxError, match="nested deeper"):
        compile_template(deep)
    with pytest.raises(ExpressionSyntaxError, match="1000 expressions"):
        compile_template(["{{ 1 }}"] * 1001)
    assert len(compile_template(["{{ 1 }}"] * 1000).programs) == 1


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def _has_braces(value) -> bool:
    if isinstance(value, str):
        return "{{" in value
    if isinstance(value, dict):
        return any(_has_braces(one) for one in value.values())
    return isinstance(value, list) and any(_has_braces(one) for one in value)


@settings(max_examples=150, deadline=None)
@given(_JSON.filter(lambda value: not _has_braces(value)))
def test_constants_come_back_as_they_are(value) -> None:
    template = compile_template(value)
    assert template.is_constant
    assert Evaluator().try_resolve(template, {}) == value


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="ab{}\\ \n'", max_size=30))
def test_any_text_can_be_escaped(text: str) -> None:
    escaped = text.replace("{{", "\\{{")
    template = compile_template(escaped)
    assert template.is_constant
    assert Evaluator().try_resolve(template, {}) == text
