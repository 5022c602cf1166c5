"""AI nodes: calls of language models whose tokens, cost and time are on record."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from core.errors import ErrorClass, StepError
from core.json import JsonError, JsonValue, decode
from core.llm import ChatRequest, ChatResponse, EmbedRequest, FinishReason, Provider, Tool
from core.manifest import Effect
from engine.json_schema import SchemaError, check_schema, value_faults
from engine.node.registry import NodeRegistry
from engine.node.sdk import NodeVersion, Secret, StepContext, Tunable, node
from engine.nodes.ai_call import (
    CALL_ERRORS,
    account,
    check_extra,
    check_temperature,
    endpoint_of,
    invalid,
    price_given,
    usage_json,
)
from engine.nodes.ai_plan import plan_node
from engine.nodes.ai_port import LanguageModels
from engine.nodes.ai_price import PRICES, Price, price_of
from engine.nodes.ai_shape import ChatMessage, ChatOutput, EmbedOutput, PriceSpec, ToolSpec

_MAX_SHOWN_FAULTS = 3


def ai_nodes(
    models: LanguageModels, prices: Mapping[str, Price] | None = None, registry: NodeRegistry | None = None
) -> list[NodeVersion]:
    """`ai.chat`, `ai.embed` and `ai.plan`. Closing any closes the models' connections; they open again when needed.

    Args:
        models: makes the calls.
        prices: for models that are not in the built-in table, or cost something else here.
        registry: the nodes that plans may be made of; without it there is no `ai.plan`.
    """
    table = {**PRICES, **(prices or {})}
    nodes = [_chat_node(models, table), _embed_node(models, table)]
    return nodes if registry is None else [*nodes, plan_node(models, table, registry)]


def _chat_node(models: LanguageModels, prices: Mapping[str, Price]) -> NodeVersion:
    @node(
        "ai.chat",
        version="1.0.0",
        effect=Effect.IDEMPOTENT,
        category="ai",
        error_classes=CALL_ERRORS,
        metrics=(
            "ttft_ms",
            "tokens_per_second",
            "input_chars",
            "output_chars",
            "cached_tokens",
            "price_known",
        ),
        close=models.aclose,
    )
    async def chat(
        context: StepContext,
        provider: Literal["openai", "anthropic"],
        model: Annotated[str, Field(min_length=1, max_length=200)],
        prompt: str | None = None,
        system: str | None = None,
        messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=10_000)] | None = None,
        api_key: Annotated[str | None, Secret] = None,
        base_url: Annotated[str, Field(max_length=2_000)] | None = None,
        temperature: Annotated[float | None, Field(ge=0, le=2), Tunable(low=0, high=2)] = None,
        max_tokens: Annotated[
            int | None, Field(ge=1, le=1_000_000), Tunable(low=16, high=128_000, scale="log", unit="tokens")
        ] = None,
        top_p: Annotated[float | None, Field(ge=0, le=1), Tunable(low=0.05, high=1)] = None,
        stop: str | Annotated[list[str], Field(max_length=16)] | None = None,
        json_schema: dict[str, JsonValue] | None = None,
        tools: Annotated[list[ToolSpec], Field(max_length=128)] | None = None,
        stream: bool = False,
        price: PriceSpec | None = None,
        extra: dict[str, JsonValue] | None = None,
    ) -> ChatOutput:
        """Chat.

        Asks a language model, and gives its answer with the tokens that it took. With a JSON Schema the answer is JSON
        that satisfies it, as `json`. Failed calls are repeated as the step's `retry` says.

        Args:
            provider: Whose protocol to speak. Many other servers speak OpenAI's.
            model: The model, as the provider names it.
            prompt: The question. Either this or `messages`.
            system: Instructions that stand above the conversation.
            messages: The conversation so far, `{role, content}` each.
            api_key: `{{ secrets.NAME }}`; keys of the server's environment are never used.
            base_url: Where to call, when it is not the provider's own address. What `REFLUX_EGRESS_ALLOW` does not
                open must be public.
            temperature: 0 to 2, with Anthropic at most 1. Some models refuse it.
            max_tokens: Most tokens of the answer, thinking included. Default: the provider's; with Anthropic 8192.
            top_p: 0 to 1. Some models refuse it.
            stop: Where to stop, one text or several.
            json_schema: JSON Schema 2020-12 of the answer. The answer is checked against it.
            tools: Functions that the model may ask for, `{name, description, parameters}` each.
            stream: Have the answer sent piece by piece. The output is the same, and `ttft_ms` tells the time to the
                first token.
            price: What a million tokens cost in US dollars, `{input, output, cached}`, when it is not the list price.
            extra: Further members of the request, as the provider names them (`reasoning_effort`, `seed`).
        """
        conversation = _conversation(prompt, system, messages)
        _check(provider, temperature, json_schema, extra)
        request = ChatRequest(
            provider=Provider(provider),
            endpoint=endpoint_of(context, base_url, api_key),
            model=model,
            messages=conversation,
            temperature=temperature,
            max_tokens=max_tokens,
            top_p=top_p,
            stop=(stop,) if isinstance(stop, str) else tuple(stop or ()),
            json_schema=json_schema,
            tools=tuple(_tool(one) for one in tools or ()),
            stream=stream,
            extra=extra or {},
        )
        context.report(input_chars=sum(_chars(one["content"]) for one in conversation))
        begun = context.clock.monotonic()
        response = await models.chat(request)
        seconds = context.clock.monotonic() - begun
        account(context, response.usage, price_given(price) or price_of(model, prices))
        _measure(context, response, seconds)
        return _output(response, json_schema)

    return chat


def _embed_node(models: LanguageModels, prices: Mapping[str, Price]) -> NodeVersion:
    @node(
        "ai.embed",
        version="1.0.0",
        effect=Effect.IDEMPOTENT,
        category="ai",
        error_classes=CALL_ERRORS,
        metrics=("input_chars", "price_known"),
        close=models.aclose,
    )
    async def embed(
        context: StepContext,
        model: Annotated[str, Field(min_length=1, max_length=200)],
        texts: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=2_048)],
        api_key: Annotated[str | None, Secret] = None,
        base_url: Annotated[str, Field(max_length=2_000)] | None = None,
        dimensions: Annotated[int, Field(ge=1, le=100_000)] | None = None,
        price: PriceSpec | None = None,
    ) -> EmbedOutput:
        """Embed.

        Turns texts into vectors, with OpenAI or a server that speaks its protocol.

        Args:
            model: The model, as the provider names it.
            texts: 1 to 2048 texts.
            api_key: `{{ secrets.NAME }}`.
            base_url: Where to call, when it is not OpenAI's own address.
            dimensions: Length of the vectors, for models that can shorten them.
            price: What a million tokens cost in US dollars, `{input, output}`, when it is not the list price.
        """
        request = EmbedRequest(endpoint_of(context, base_url, api_key), model, tuple(texts), dimensions)
        context.report(input_chars=sum(map(len, texts)))
        response = await models.embed(request)
        account(context, response.usage, price_given(price) or price_of(model, prices))
        return {"vectors": response.vectors, "model": response.model, "usage": usage_json(response.usage)}

    return embed


def _conversation(
    prompt: str | None, system: str | None, messages: list[ChatMessage] | None
) -> tuple[dict[str, Any], ...]:
    if (prompt is None) == (messages is None):
        raise invalid("prompt", "or `messages` must be given, and not both.")
    conversation: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    if messages is not None:
        conversation += [dict(one) for one in messages]
    else:
        conversation.append({"role": "user", "content": prompt})
    if all(one["role"] in {"system", "developer"} for one in conversation):
        raise invalid("messages", "must hold more than instructions: add a message of the role user.")
    return tuple(conversation)


def _check(
    provider: str, temperature: float | None, schema: dict[str, JsonValue] | None, extra: dict[str, JsonValue] | None
) -> None:
    check_temperature(provider, temperature)
    check_extra(extra)
    if schema is not None:
        try:
            check_schema(schema)
        except SchemaError as error:
            raise invalid("json_schema", f"is not usable: {error}") from None


def _tool(spec: ToolSpec) -> Tool:
    return Tool(spec["name"], spec.get("description", ""), spec.get("parameters", {"type": "object", "properties": {}}))


def _chars(content: str | list[dict[str, JsonValue]] | None) -> int:
    if isinstance(content, list):
        return sum(len(one["text"]) for one in content if isinstance(one.get("text"), str))
    return len(content or "")


def _measure(context: StepContext, response: ChatResponse, seconds: float) -> None:
    context.report(output_chars=len(response.text), cached_tokens=response.usage.cached_tokens)
    if response.first_token_s is not None:
        context.report(ttft_ms=response.first_token_s * 1000)
    if seconds > 0:
        context.report(tokens_per_second=response.usage.output_tokens / seconds)


def _output(response: ChatResponse, schema: dict[str, JsonValue] | None) -> ChatOutput:
    output: ChatOutput = {
        "text": response.text,
        "model": response.model,
        "finish_reason": response.finish_reason.value,
        "usage": usage_json(response.usage),
    }
    if response.tool_calls:
        output["tool_calls"] = [
            {"id": one.id, "name": one.name, "arguments": one.arguments} for one in response.tool_calls
        ]
    if schema is not None:
        # A model that first asks for a tool answers later.
        output["json"] = None if response.tool_calls else _structured(response, schema)
    return output


def _structured(response: ChatResponse, schema: dict[str, JsonValue]) -> JsonValue:
    reason = response.finish_reason
    detail: dict[str, str | int | float | bool | None] = {"finish_reason": reason.value}
    if reason is FinishReason.CONTENT_FILTER:
        raise StepError(ErrorClass.DECODE, "The model refuses to answer.", detail=detail)
    try:
        value = decode(response.text)
    except JsonError:
        cut = reason is FinishReason.LENGTH
        why = "is cut: raise `max_tokens`" if cut else "is not JSON, although a schema was given"
        raise StepError(ErrorClass.DECODE, f"The model's answer {why}.", detail=detail) from None
    faults = [fault.message for fault in value_faults(schema, value, "$")]
    if faults:
        shown = " ".join(faults[:_MAX_SHOWN_FAULTS])
        more = f" And {len(faults) - _MAX_SHOWN_FAULTS} more." if len(faults) > _MAX_SHOWN_FAULTS else ""
        raise StepError(ErrorClass.DECODE, f"The model's answer breaks the schema: {shown}{more}", detail=detail)
    return value
