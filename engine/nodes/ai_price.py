"""What tokens cost.

List prices for pay-as-you-go calls, in US dollars for a million tokens, as published in November 2026. Discounts
(batches, flex tiers) and surcharges (fast modes, regions) are not in them: override a price where they matter.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from core.llm import TokenUsage

_MILLION = 1_000_000
Dollars = Annotated[float, Field(ge=0, allow_inf_nan=False)]

_DATED = re.compile(r"-(?:20\d\d-\d\d-\d\d|20\d{6})\Z")


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for a million tokens.

    Attributes:
        cached: input that came from the provider's cache; default: like other input.
        cache_write: input that was written to it; default: like other input.
        long_above: input tokens from which on the whole call has the price `long`.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    input: Dollars
    output: Dollars
    cached: Dollars | None = None
    cache_write: Dollars | None = None
    long_above: int | None = None
    long: "Price | None" = None

    def of(self, usage: TokenUsage) -> float:
        """What a call costs, in US dollars."""
        if self.long is not None and self.long_above is not None and usage.input_tokens > self.long_above:
            return self.long.of(usage)
        cached = min(usage.cached_tokens, usage.input_tokens)
        written = min(usage.cache_write_tokens, usage.input_tokens - cached)
        plain = usage.input_tokens - cached - written
        total = (
            plain * self.input
            + cached * (self.input if self.cached is None else self.cached)
            + written * (self.input if self.cache_write is None else self.cache_write)
            + usage.output_tokens * self.output
        )
        return total / _MILLION


def _openai(input: float, output: float, cached: float, writes: bool = False) -> Price:
    """Models with a context of a million tokens: above 272,000 input costs twice and output one and a half times."""
    price = Price(input, output, cached, input * 1.25 if writes else None)
    long = Price(input * 2, output * 1.5, cached * 2, input * 2.5 if writes else None)
    return replace(price, long_above=272_000, long=long)


def _anthropic(input: float, output: float, cached: float) -> Price:
    return Price(input, output, cached, input * 1.25)


PRICES: Mapping[str, Price] = {
    "gpt-6-astra": _openai(10, 50, 1, writes=True),
    "gpt-6.1-sol": _openai(2, 10, 0.1),
    "gpt-6-sol": _openai(2, 10, 0.2, writes=True),
    "gpt-6-luna": _openai(0.1, 0.5, 0.01, writes=True),
    "gpt-5.6-sol": _openai(4, 20, 0.4),
    "gpt-5.6-terra": _openai(2, 12, 0.2),
    "gpt-5.6-luna": _openai(0.2, 1.2, 0.02),
    "gpt-5.5": _openai(5, 30, 0.5),
    "gpt-5.4": _openai(2.5, 15, 0.25),
    "gpt-5.4-mini": Price(0.75, 4.5, 0.075),
    "gpt-5.4-nano": Price(0.2, 1.25, 0.02),
    "gpt-5.2": Price(1.75, 14, 0.175),
    "gpt-5.1": Price(1.25, 10, 0.125),
    "gpt-5": Price(1.25, 10, 0.125),
    "gpt-5-mini": Price(0.25, 2, 0.025),
    "gpt-5-nano": Price(0.05, 0.4, 0.005),
    "gpt-4.1": Price(2, 8, 0.5),
    "gpt-4.1-mini": Price(0.4, 1.6, 0.1),
    "gpt-4.1-nano": Price(0.1, 0.4, 0.025),
    "gpt-4o": Price(2.5, 10, 1.25),
    "gpt-4o-mini": Price(0.15, 0.6, 0.075),
    "o3": Price(2, 8, 0.5),
    "o4-mini": Price(1.1, 4.4, 0.275),
    "text-embedding-3-small": Price(0.02, 0),
    "text-embedding-3-large": Price(0.13, 0),
    "text-embedding-ada-002": Price(0.1, 0),
    "claude-fable-5-1": _anthropic(10, 50, 0.25),
    "claude-mythos-5-1": _anthropic(10, 50, 0.25),
    "claude-fable-5": _anthropic(10, 50, 1),
    "claude-mythos-5": _anthropic(10, 50, 1),
    "claude-opus-5-5": _anthropic(4, 20, 0.2),
    "claude-opus-5": _anthropic(5, 25, 0.5),
    "claude-opus-4-8": _anthropic(5, 25, 0.5),
    "claude-opus-4-7": _anthropic(5, 25, 0.5),
    "claude-opus-4-6": _anthropic(5, 25, 0.5),
    "claude-opus-4-5": _anthropic(5, 25, 0.5),
    "claude-sonnet-5-5": _anthropic(2, 10, 0.1),
    "claude-sonnet-5": _anthropic(2, 10, 0.2),
    "claude-sonnet-4-6": _anthropic(3, 15, 0.3),
    "claude-sonnet-4-5": _anthropic(3, 15, 0.3),
    "claude-haiku-5-5": replace(_anthropic(0.1, 0.5, 0.01), long_above=100_000, long=_anthropic(0.5, 2.5, 0.05)),
    "claude-haiku-4-5": _anthropic(1, 5, 0.1),
}
"""By model name. A dated name (`gpt-5-2025-08-07`) has the price of the plain one."""


_SPECS = TypeAdapter(dict[str, Price])


def parse_prices(text: str) -> dict[str, Price]:
    """Prices by model from JSON: `{"house-model": {"input": 1, "output": 4, "cached": 0.1}}`.

    Raises:
        ValueError: with a sentence that says where the text is wrong.
    """
    try:
        return _SPECS.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the text"
        raise ValueError(f"{where}: {first['msg']}") from None


def price_of(model: str, prices: Mapping[str, Price]) -> Price | None:
    """A model's price; None when it is not known."""
    return prices.get(model) or prices.get(_DATED.sub("", model))
