import math
import timeit

import cel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import ErrorClass
from engine.expression.cost import inline_cost, measure
from engine.expression.errors import ExpressionError
from engine.expression.evaluator import NEEDS_HOST, Evaluator
from engine.expression.program import compile_expression, project
from engine.expression.request import encode_request
from engine.expression.template import compile_template

SCOPE = {
    "input": {"amount": 5, "items": [1, 2, 3], "rows": [{"v": n} for n in range(500)]},
    "steps": {
        "a": {"output": {"body": {"id": 7, "x": 1}, "big": "x"}, "status": "completed"},
        "b": {"output": "secret-ish"},
    },
}


async def test_results_become_json(evaluator: Evaluator) -> None:
    source = (
        "{'d': duration('90s'), 't': timestamp('2020-01-01T00:00:00Z'), 'b': b'x', 'o': optional.none(), 'u': 1u, 2: 3}"
    )
    assert await evaluator.evaluate(source, {}) == {
        "d": 90.0, "t": "2020-01-01T00:00:00Z", "b": "eA==", "o": None, "u": 1, "2": 3,
    }  # fmt: skip
    assert await evaluator.evaluate("optional.of([1])", {}) == [1]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("input.amuont", "did you mean `amount`"),
        ("input.amuont + 1", "did you mean `amount`"),
        ("input.rows.map(r, r.w)", "no such key `w`"),
        ("input.amount * 1.5", r"double\(x\)"),
        ("input.amount.x", "input.amount is an int"),
        ("nothing", "unknown name `nothing`"),
        ("1 / 0", "division by zero"),
        ("1.0 / 0.0", "inf"),
        ("double('nan')", "nan"),
        ("9223372036854775807 + 1", "64 bits"),
        ("input.items[9]", "index out of bounds"),
        ("'a'.startsWith(1)", "type that it does not take"),
        ("'" + "a" * 500 + "' + 1", "…"),
    ],
)
async def test_errors_say_what_to_do(evaluator: Evaluator, source: str, said: str) -> None:
    with pytest.raises(ExpressionError, match=said) as caught:
        await evaluator.evaluate(source, SCOPE)
    assert caught.value.error_class is ErrorClass.EXPRESSION
    assert len(caught.value.source) <= 200


def test_only_what_is_referred_to_is_passed() -> None:
    expression = compile_expression("steps.a.output.body.id + input.amount")
    assert project(SCOPE, expression.keep) == {
        "steps": {"a": {"output": {"body": {"id": 7, "x": 1}}}},
        "input": {"amount": 5},
    }
    whole = compile_expression("steps.a == null || steps.a.output == 1")
    assert project(SCOPE, whole.keep) == {"steps": {"a": SCOPE["steps"]["a"]}}
    assert b"secret-ish" not in encode_request(expression, SCOPE)


async def test_the_host_gives_what_cel_gives(evaluator: Evaluator) -> None:
    for source in (
        "input.rows.map(r, r.v * 2)",
        "input.rows.filter(r, r.v > 490)",
        "input.rows.map(r, r.v % 100 == 0, [r.v, input.amount])",
        "input.rows.map(r, input.items.map(i, i + r.v))",
        "size(input.rows.filter(r, r.v > 10))",
    ):
        assert Evaluator().try_resolve(compile_template(f"{{{{ {source} }}}}"), SCOPE) is NEEDS_HOST
        assert await evaluator.evaluate(source, SCOPE) == cel.evaluate(source, SCOPE)


def test_what_is_cheap_runs_in_process() -> None:
    def cost(source: str, scope) -> int | None:
        expression = compile_expression(source)
        return inline_cost(expression.analysis, measure(project(scope, expression.keep)))

    assert cost("input.amount > 3 && steps.a.status == 'completed'", SCOPE)
    assert cost("input.items.map(i, i * 2)", SCOPE)
    assert cost("input.rows.map(r, r.v)", SCOPE) is None
    assert cost("input.items.map(i, i).map(i, i)", SCOPE) is None
    assert cost("'a'.matches('a{2,9}')", SCOPE) is None
    assert cost("size(input.s)", {"input": {"s": "x" * 1_000_000}}) is None


@pytest.mark.parametrize(
    ("source", "microseconds"),
    [("input.amount", 3), ("steps.a.output.body.id", 3), ("input.amount > 3 && steps.a.status == 'completed'", 30)],
)
def test_the_hot_path_is_fast(source: str, microseconds: float) -> None:
    template, evaluator = compile_template(f"{{{{ {source} }}}}"), Evaluator()
    best = min(timeit.repeat(lambda: evaluator.try_resolve(template, SCOPE), number=500, repeat=9)) / 500
    assert best * 1e6 < microseconds


_KEYS = st.sampled_from(["a", "b", "c"])
_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["input", "vars"]), _VALUES, max_size=2),
    st.sampled_from(["input", "vars"]),
    st.lists(_KEYS, max_size=3),
)
def test_plain_references_equal_cel(scope, root, path) -> None:
    source = ".".join([root, *path])
    template = compile_template(f"{{{{ {source} }}}}")
    try:
        expected = cel.evaluate(source, scope)
    except (KeyError, TypeError, RuntimeError):
        with pytest.raises(ExpressionError):
            Evaluator().try_resolve(template, scope)
        return
    got = Evaluator().try_resolve(template, scope)
    assert got == expected
    assert type(got) is type(expected)
    assert not isinstance(got, float) or math.copysign(1, got) == math.copysign(1, expected)
