import time

import cel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.expression.errors import ExpressionSyntaxError
from engine.expression.lexer import MAX_NESTING, MAX_SOURCE, tokenize, tokenize_until_close


@pytest.mark.parametrize(
    "source",
    [
        "'a' + \"b\"",
        "r'\\' + 'c'",
        "'''a 'quoted' {{ text }}'''",
        '"""two\nlines"""',
        "b'x' + br'\\d'",
        "0x1F + 1u + 1.5e3 + .5",
        "a // comment ' with quote\n + 1",
        "'' + \"\"",
        "'it\\'s'",
    ],
)
def test_what_cel_takes_is_tokenized_completely(source: str) -> None:
    cel.compile(source)
    tokens = tokenize(source)
    assert all(source[token.start : token.end] == token.text for token in tokens)


@pytest.mark.parametrize(
    ("source", "position", "said"),
    [
        ("a = 1", 2, "=="),
        ("(a]", 2, "is closed by"),
        ("a)", 1, "closes nothing"),
        ("f(a", 1, "never closed"),
        ("'open", 0, "no end"),
        ("a & b", 2, "&&"),
        ("$.a", 0, "input.amount"),
    ],
)
def test_a_fault_has_a_position_and_a_way_out(source: str, position: int, said: str) -> None:
    with pytest.raises(ExpressionSyntaxError) as caught:
        tokenize(source)
    assert caught.value.position == position
    assert said in caught.value.message


def test_bounds_on_the_text() -> None:
    assert tokenize("(" * MAX_NESTING + "1" + ")" * MAX_NESTING)
    with pytest.raises(ExpressionSyntaxError, match="nested deeper"):
        tokenize("(" * (MAX_NESTING + 1) + "1" + ")" * (MAX_NESTING + 1))
    assert tokenize("a" * MAX_SOURCE)
    with pytest.raises(ExpressionSyntaxError, match="longer than 4096"):
        tokenize("a" * (MAX_SOURCE + 1))


def test_a_megabyte_is_refused_at_once() -> None:
    started = time.perf_counter()
    for text in ("a" * 1_000_000, "'" + "a" * 1_000_000 + "'", "(" * 1_000_000):
        with pytest.raises(ExpressionSyntaxError):
            tokenize(text)
        with pytest.raises(ExpressionSyntaxError):
            tokenize_until_close("{{" + text, 2)
    assert time.perf_counter() - started < 0.1


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("{{ a }} b }}", " a "),
        ("{{ {'a': {'b': 1}} }}", " {'a': {'b': 1}} "),
        ("{{ {'a': {'b': 1}}}}", " {'a': {'b': 1}}"),
        ("{{ '}}' + \"}}\" }}", " '}}' + \"}}\" "),
        ("{{ a // }}\n }}", " a // }}\n "),
    ],
)
def test_the_closing_braces_are_found(text: str, source: str) -> None:
    assert tokenize_until_close(text, 2)[1] == source


_QUOTES = ["'", '"', "'''", '"""', "\\", "\\n", "\\x41", "r", "b"]
_PUNCTUATION = [*"()[]{}.+-|=!?:,ü$`", "//", "&&", "=="]
_FRAGMENTS = st.lists(
    st.sampled_from([*_QUOTES, *_PUNCTUATION, "a", "1", "0x", "e", "u", "in"]),
    max_size=14,
).flatmap(lambda parts: st.sampled_from(["", "", " ", "\n"]).map(lambda space: space.join(parts)))


@settings(max_examples=600, deadline=None)
@given(st.one_of(_FRAGMENTS, st.text(max_size=40)))
def test_the_lexer_never_crashes_and_never_refuses_what_cel_takes(source: str) -> None:
    try:
        tokens = tokenize(source)
    except ExpressionSyntaxError:
        with pytest.raises(ValueError, match="Failed to parse"):
            cel.compile(source)
        return
    assert all(source[token.start : token.end] == token.text for token in tokens)
