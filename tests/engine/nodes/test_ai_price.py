"""Tokens and their price."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.llm import TokenUsage
from engine.nodes.ai_price import PRICES, Price, parse_prices, price_of

counts = st.integers(0, 2_000_000)


def test_dated_names_have_the_price_of_the_plain_one() -> None:
    assert price_of("gpt-5-2025-08-07", PRICES) is PRICES["gpt-5"]
    assert price_of("claude-haiku-4-5-20251001", PRICES) is PRICES["claude-haiku-4-5"]
    assert price_of("gpt-5-turbo", PRICES) is None
    assert price_of("gpt-5-2025-08-07", {**PRICES, "gpt-5-2025-08-07": Price(1, 1)}) == Price(1, 1)


def test_parts_of_the_input_have_their_own_price() -> None:
    usage = TokenUsage(input_tokens=1_000_000, output_tokens=100_000, cached_tokens=400_000, cache_write_tokens=100_000)
    assert Price(2, 10).of(usage) == pytest.approx(3)
    assert Price(2, 10, cached=0.2).of(usage) == pytest.approx(0.6 * 2 + 0.4 * 0.2 + 1)
    assert Price(2, 10, 0.2, 2.5).of(usage) == pytest.approx(0.5 * 2 + 0.4 * 0.2 + 0.1 * 2.5 + 1)


def test_long_inputs_cost_more_from_the_threshold_on() -> None:
    price = PRICES["claude-haiku-5-5"]
    assert price.of(TokenUsage(100_000)) == pytest.approx(0.01)
    assert price.of(TokenUsage(100_001)) == pytest.approx(0.0500005)
    assert PRICES["gpt-6-sol"].of(TokenUsage(300_000, 1_000)) == pytest.approx(0.3 * 4 + 0.015)


@given(st.sampled_from(sorted(PRICES)), counts, counts, counts, counts)
def test_a_price_is_never_negative_whatever_a_server_counts(
    model: str, read: int, out: int, cached: int, written: int
) -> None:
    assert PRICES[model].of(TokenUsage(read, out, cached, written)) >= 0


@pytest.mark.parametrize("model", sorted(PRICES))
def test_the_table_is_plausible(model: str) -> None:
    price = PRICES[model]
    assert 0 < price.input <= 100
    assert price.output == 0 or price.input < price.output <= 10 * price.input
    assert price.cached is None or price.cached < price.input


def test_prices_from_a_setting() -> None:
    text = '{"a": {"input": 1, "output": 4, "cached": 0.1}, "b": {"input": 0, "output": 0}}'
    assert parse_prices(text) == {"a": Price(1, 4, 0.1), "b": Price(0, 0)}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"a": 1}',
        '{"a": {"input": 1}}',
        '{"a": {"input": -1, "output": 1}}',
        '{"a": {"input": 1, "outptu": 1}}',
    ],
)
def test_prices_that_cannot_be_used(text: str) -> None:
    with pytest.raises(ValueError, match=": "):
        parse_prices(text)
