import pytest

from engine.events.correlation import Condition, Correlation, key_of, take_apart
from engine.expression.errors import ExpressionSyntaxError


@pytest.mark.parametrize(
    ("match", "path", "other", "rest"),
    [
        ("event.order_id == input.order_id", ("order_id",), "input.order_id", None),
        ("input.order_id == event.order_id", ("order_id",), "input.order_id", None),
        ('event["order id"].n == "x"', ("order id", "n"), '"x"', None),
        ("event.a == 1 && event.b > 2", ("a",), "1", "event.b > 2"),
        ("event.b > 2 && event.a == vars.x && true", ("a",), "vars.x", "event.b > 2 && true"),
        ("event.a == input.x + 1", ("a",), "input.x + 1", "event.a == input.x + 1"),
        ("event.a == input.b // why\n && event.c", ("a",), "input.b", "event.c"),
    ],
)
def test_what_can_be_looked_up(match: str, path: tuple[str, ...], other: str, rest: str | None) -> None:
    assert take_apart(match) == Condition(Correlation(path, other), rest)


@pytest.mark.parametrize(
    "match",
    [
        "event.a == event.b",
        "event.a != input.a",
        "event.a == input.a || event.b",
        "event.a == input.a && event.b || event.c",
        "event.a ? event.b == 1 : event.c == 2",
        "(event.a == input.a)",
        "!(event.a == input.a)",
        "event.a == input.a == true",
        "event.a == input.x in [true]",
        "event.items[0] == input.a",
        "event.a.size() == 2",
        "event == input.a",
        "event.a == [1].map(x, event.b)[0]",
        "has(event.a)",
    ],
)
def test_what_has_to_be_evaluated(match: str) -> None:
    assert take_apart(match) == Condition(None, match)


def test_what_is_no_expression() -> None:
    with pytest.raises(ExpressionSyntaxError):
        take_apart("event.a ==")


def test_keys_are_equal_when_values_are() -> None:
    assert key_of(1) == key_of(1.0)
    assert hash(key_of(1)) == hash(key_of(1.0))
    assert len({key_of(True), key_of(1), key_of("1"), key_of(None), key_of(""), key_of(False), key_of(0)}) == 7
    assert [key_of(one) for one in ([], {}, 2**53, -(2**60), 1e300)] == [None] * 5
