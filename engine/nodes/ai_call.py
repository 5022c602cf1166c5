"""What all AI nodes do alike: name the place of the model, and put on record what a call has cost."""

from urllib.parse import urlsplit

from core.errors import ErrorClass, StepError
from core.llm import Endpoint, TokenUsage
from engine.node.sdk import StepContext
from engine.nodes.ai_price import Price
from engine.nodes.ai_shape import PriceSpec, Usage

CALL_ERRORS = (
    ErrorClass.NETWORK,
    ErrorClass.TIMEOUT,
    ErrorClass.RATE_LIMITED,
    ErrorClass.AUTH,
    ErrorClass.UPSTREAM_4XX,
    ErrorClass.UPSTREAM_5XX,
    ErrorClass.DECODE,
    ErrorClass.INVALID_INPUT,
    ErrorClass.POLICY,
)
"""The failures that callers of a model should expect."""

_RESERVED = ("model", "messages", "stream", "n")


def invalid(field: str, sentence: str) -> StepError:
    """The error for a parameter that cannot be used."""
    return StepError(ErrorClass.INVALID_INPUT, f"Parameter `{field}` {sentence}", detail={"field": field})


def check_extra(extra: dict[str, object] | None) -> None:
    """Raise StepError(INVALID_INPUT) when `extra` would override what the node itself sends."""
    for name in _RESERVED:
        if name in (extra or {}):
            raise invalid("extra", f"may not set `{name}`.")


def check_temperature(provider: str, temperature: float | None) -> None:
    """Raise StepError(INVALID_INPUT) when the provider takes no such temperature."""
    if provider == "anthropic" and temperature is not None and temperature > 1:
        raise invalid("temperature", "is at most 1 with Anthropic.")


def endpoint_of(context: StepContext, base_url: str | None, api_key: str | None) -> Endpoint:
    """Where to call. Raises StepError(INVALID_INPUT)."""
    if base_url is not None:
        try:
            parts = urlsplit(base_url)
            fits = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        except ValueError:
            fits = False
        if not fits or parts.query or parts.fragment or "@" in parts.netloc or not base_url.isprintable():
            raise invalid("base_url", "must be an absolute http or https address without credentials and query.")
    if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
        raise invalid("api_key", "has characters that no key has, such as a line break: store the secret again.")
    return Endpoint(base_url, (api_key or "").strip() or None, context.timeout, context.idempotency_key)


def price_given(spec: PriceSpec | None) -> Price | None:
    """The price that a step names itself."""
    return None if spec is None else Price(spec["input"], spec["output"], spec.get("cached"))


def account(context: StepContext, usage: TokenUsage, price: Price | None) -> None:
    """Put tokens and cost on record; also of answers that turn out to be of no use."""
    context.tokens(usage.input_tokens, usage.output_tokens)
    context.cost(price.of(usage) if price is not None else 0.0)
    context.report(price_known=price is not None)


def usage_json(usage: TokenUsage) -> Usage:
    """Tokens as an output shows them."""
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cached_tokens": usage.cached_tokens,
    }
