import cel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.expression.errors import ExpressionSyntaxError
from engine.expression.lexer import tokenize
from engine.expression.references import BUILTIN_NAMES, Analysis, analyze


def analysis_of(source: str) -> Analysis:
    return analyze(tokenize(source), source)


def shown(source: str) -> list[str]:
    return [str(reference) for reference in analysis_of(source).references]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("steps.charge.output.id", ["steps.charge.output.id"]),
        ('steps["charge"].output', ["steps.charge.output"]),
        ("steps['check-stock'].status", ['steps["check-stock"].status']),
        ("input.a.b + input.a.c", ["input.a.b", "input.a.c"]),
        ("input.items[0].x", ["input.items"]),
        ("input.items[index].x", ["input.items", "index"]),
        ("input.items.map(i, i.x)", ["input.items"]),
        ("input.items.filter(input, input > vars.x)", ["input.items", "vars.x"]),
        ("input.items.map(i, input.others.exists(j, j == i))", ["input.items", "input.others"]),
        ("input.items.map(i, i) + [i]", ["input.items", "i"]),
        ("i.map(i, i)", ["i"]),
        ("'input.x' + \"steps.a\" // vars.y\n + r'item'", []),
        ("has(input.a) && size(input.b) > 0", ["input.a", "input.b"]),
        ("input.name.startsWith(vars.prefix)", ["input.name", "vars.prefix"]),
        ("f(input).x.y", ["input"]),
        ("{'steps': 1}.steps", []),
        ("{input.k: 1}", ["input.k"]),
        ("type(input.a) == int", ["input.a"]),
        ("input.map", ["input.map"]),
        (".input.a", ["input.a"]),
        ("input.a in [1, true, null]", ["input.a"]),
    ],
)
def test_references(source: str, expected: list[str]) -> None:
    assert shown(source) == expected


@pytest.mark.parametrize("source", ["steps", "steps[input.x].output", "size(steps)", "steps.map(s, s)", "[steps]"])
def test_steps_need_a_literal_id(source: str) -> None:
    with pytest.raises(ExpressionSyntaxError, match="literal step id"):
        analysis_of(source)


def test_a_macro_variable_may_be_called_steps() -> None:
    assert shown("input.items.all(steps, steps.ok)") == ["input.items"]


@pytest.mark.parametrize("source", ["secrets.A + 'x'", "size(secrets.A)", "secrets", "secrets.A.b", "[secrets.A]"])
def test_a_secret_stands_alone(source: str) -> None:
    with pytest.raises(ExpressionSyntaxError, match="secret cannot be part"):
        analysis_of(source)
    assert analysis_of("secrets.A").secret == "A"
    assert analysis_of('secrets["A"]').secret == "A"


def test_macro_nesting_is_bounded() -> None:
    assert analysis_of("a.map(x, b.map(y, x)).map(z, z)").macros == 3
    with pytest.raises(ExpressionSyntaxError, match="nested 2 deep"):
        analysis_of("a.map(x, b.map(y, c.all(z, true)))")


@pytest.mark.parametrize("source", ["a.map(i)", "a.filter(i, i, i)", "a.map(1, 2)", "a.exists()", "a.all(i.x, 1)"])
def test_macros_need_a_variable_and_a_body(source: str) -> None:
    with pytest.raises(ExpressionSyntaxError):
        analysis_of(source)


@pytest.mark.parametrize(
    ("source", "risky"),
    [
        ("input.a.matches('^a+$')", False),
        ("input.a.matches('a{1,50}')", True),
        ("input.a.matches(input.b)", True),
        ("matches(input.a, 'a')", True),
        ("input.matches == 1", False),
        ("f(x).matches('a' + 'b')", True),
    ],
)
def test_costly_regular_expressions_are_noticed(source: str, risky: bool) -> None:
    assert analysis_of(source).risky_match is risky


def test_the_mapped_list_is_known() -> None:
    assert str(analysis_of("input.a.map(i, i)").mapped) == "input.a"
    for other in (
        "input.a.map(i, i)[0]",
        "input.a.all(i, i)",
        "f(input.a).map(i, i)",
        "1 + a.map(i, i)",
        "a.b().map(i, i)",
    ):
        assert analysis_of(other).mapped is None


_ROOTS = st.sampled_from(["input", "vars", "item", "x", "y", "int"])
_FIELDS = st.sampled_from(["a", "steps", "input", "map", "x"])


@st.composite
def _sources(draw: st.DrawFn, levels: int = 3, macros: int = 2) -> str:
    kind = draw(st.integers(0, 8 if levels else 2))
    inner = st.deferred(lambda: _sources(levels - 1, macros))
    match kind:
        case 0 | 1:
            chain = "".join(
                draw(st.lists(st.one_of(_FIELDS.map(lambda f: f".{f}"), _FIELDS.map(lambda f: f"['{f}']")), max_size=3))
            )
            return draw(_ROOTS) + chain
        case 2:
            return draw(st.sampled_from(["1", "'input.a'", '"vars"', "r'x'", "true", "b'item'", "1.5", "null"]))
        case 3:
            return f"({draw(inner)}) + {draw(inner)}"
        case 4:
            return f"size({draw(inner)})"
        case 5:
            return f"[{draw(inner)}, {{{draw(inner)}: {draw(inner)}}}] // input.vars\n"
        case 6:
            return f"({draw(inner)}).startsWith({draw(inner)})"
        case _ if macros:
            body = st.deferred(lambda: _sources(levels - 1, macros - 1))
            variable = draw(st.sampled_from(["x", "y", "i", "input"]))
            name = draw(st.sampled_from(["map", "filter", "all", "exists"]))
            return f"({draw(body)}).{name}({variable}, {draw(body)})"
        case _:
            return f"{draw(inner)} == {draw(inner)}"


@settings(max_examples=400, deadline=None)
@given(_sources())
def test_roots_agree_with_cel(source: str) -> None:
    variables = set(cel.compile(source).variables()) - BUILTIN_NAMES
    roots = {reference.root for reference in analysis_of(source).references}
    bound = {token.text for token, before in _after_macro_parenthesis(source)}
    assert roots <= variables
    assert variables - roots <= bound


def _after_macro_parenthesis(source: str) -> list[tuple]:
    tokens = tokenize(source)
    return [
        (tokens[i], tokens[i - 2])
        for i in range(3, len(tokens))
        if tokens[i - 1].text == "(" and tokens[i - 3].text == "."
    ]
