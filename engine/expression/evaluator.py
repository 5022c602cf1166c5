"""Resolves templates and expressions, so that no expression can hold the event loop or hurt the process.

Three ways, from fast to safe: a plain reference is looked up without CEL; an expression whose cost is bounded and
small runs in process; everything else runs in the killable host.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Final, TypeAlias

import orjson

from core.json import JsonValue, decode
from engine.expression.cost import ValueTooLarge, inline_cost, measure
from engine.expression.errors import ExpressionError
from engine.expression.explain import LISTS_TOO_LONG, TOO_LONG, TOO_MUCH_MEMORY, broken_reference, explain
from engine.expression.frame import MAX_REQUEST, FrameKind
from engine.expression.host import BACKSTOP_SECONDS, Host, HostTimeout
from engine.expression.program import Expression, compile_expression, project
from engine.expression.references import Reference
from engine.expression.request import encode_request
from engine.expression.result import MAX_RESULT, BadResult, size_of, to_json
from engine.expression.shape import build
from engine.expression.template import Constant, Template, Whole
from engine.expression.turn import Turn

Scope: TypeAlias = Mapping[str, JsonValue]


class NeedsHost(Enum):
    """Says that `try_resolve` cannot answer at once; await `resolve`."""

    NEEDS_HOST = "needs_host"


NEEDS_HOST: Final = NeedsHost.NEEDS_HOST

_MAX_INT: Final = 2**63 - 1
_NATIVE_ERRORS = (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError, MemoryError)


class Evaluator:
    """Evaluates with two killable processes behind it. Results may share parts with the scope: nobody changes them."""

    def __init__(self) -> None:
        self._host = Host()

    async def start(self) -> None:
        """Start the killable host now; otherwise the first expression that needs it does."""
        await self._host.start()

    async def aclose(self) -> None:
        """End the host's processes."""
        await self._host.aclose()

    @property
    def host_pid(self) -> int | None:
        """Process id of the killable host, while it runs."""
        return self._host.pid

    def try_resolve(self, template: Template, scope: Scope) -> JsonValue | NeedsHost:
        """Resolve a template at once, or say that `resolve` has to be awaited.

        Args:
            template: the compiled value.
            scope: values by root name (`input`, `steps`, `item`, …).

        Raises:
            ExpressionError: an expression has no value.
        """
        root = template.root
        if type(root) is Constant:
            return root.value
        if type(root) is Whole:
            path = template.programs[root.slot].path
            if path is not None:
                value = _look_up(path, scope)
                if type(value) is str and len(value) <= MAX_RESULT // 4:
                    return value
                if type(value) is bool or value is None or (type(value) is int and -_MAX_INT <= value <= _MAX_INT):
                    return value
        turn = Turn()
        values: list[JsonValue] = []
        for expression in template.programs:
            value = _evaluate_inline(expression, scope, turn)
            if value is NEEDS_HOST or turn.is_over:
                return NEEDS_HOST
            values.append(value)
        return _finish(template, values)

    async def resolve(self, template: Template, scope: Scope) -> JsonValue:
        """The template's value: expressions replaced by what they give, secrets by SecretText.

        Raises:
            ExpressionError: an expression has no value, breaks a bound, or was stopped.
        """
        if type(template.root) is Constant:
            return template.root.value
        turn = Turn()
        values: list[JsonValue] = []
        for expression in template.programs:
            value = _evaluate_inline(expression, scope, turn)
            if value is NEEDS_HOST:
                value = await self._evaluate_in_host(expression, scope)
                turn = Turn()
            elif turn.is_over:
                turn = await turn.next()
            values.append(value)
        return _finish(template, values)

    async def evaluate(self, source: str, variables: Scope) -> JsonValue:
        """The value of one CEL expression (without braces).

        Raises:
            ExpressionSyntaxError: it is not CEL.
            ExpressionError: it has no value, breaks a bound, or was stopped.
        """
        expression = compile_expression(source)
        if expression.program is None:
            raise ExpressionError("secrets cannot be used here, only in the secret fields of a node", source)
        value = _evaluate_inline(expression, variables, Turn())
        return await self._evaluate_in_host(expression, variables) if value is NEEDS_HOST else value

    async def _evaluate_in_host(self, expression: Expression, scope: Scope) -> JsonValue:
        body = encode_request(expression, scope)
        if len(body) > MAX_REQUEST:
            raise ExpressionError("it refers to more than 4 MB of values; refer to a smaller part", expression.source)
        try:
            kind, answer = await self._host.ask(body)
        except HostTimeout:
            raise ExpressionError(
                f"the expression gave no answer within {BACKSTOP_SECONDS:g} s; the machine may be overloaded",
                expression.source,
            ) from None
        if kind is FrameKind.VALUE:
            return orjson.loads(answer)
        if kind is FrameKind.DEATH:
            raise ExpressionError(_death(int(answer)), expression.source)
        name, said = decode(answer)
        if name == "_ListTooLong":
            raise ExpressionError(LISTS_TOO_LONG.format(limit=said), expression.source)
        if name == "BadResult":
            raise ExpressionError(said, expression.source)
        raise explain(expression, scope, name, said)


_CPU_SIGNALS = frozenset({26, 27})
"""SIGVTALRM and SIGPROF."""


def _death(signal_number: int) -> str:
    return TOO_LONG if signal_number in _CPU_SIGNALS else TOO_MUCH_MEMORY


def _look_up(path: tuple[str, ...], scope: Scope) -> JsonValue:
    value: JsonValue = scope
    try:
        for key in path:
            value = value[key]
    except (KeyError, TypeError, IndexError):
        reference = Reference(path[0], path[1:])
        raise ExpressionError(broken_reference(reference, scope) or "no such key", str(reference)) from None
    return value


def _evaluate_inline(expression: Expression, scope: Scope, turn: Turn) -> JsonValue | NeedsHost:
    """Evaluate in process when that is certainly cheap. The turn is charged with time and with the result's size."""
    try:
        if expression.path is not None:
            value = _look_up(expression.path, scope)
        else:
            given = project(dict(scope), expression.keep)
            cost = inline_cost(expression.analysis, measure(given))
            if cost is None:
                return NEEDS_HOST
            turn.spend(cost)
            value = to_json(expression.program.execute(given))
        turn.grow(size_of(value))
    except (BadResult, ValueTooLarge) as error:
        raise ExpressionError(str(error), expression.source) from None
    except _NATIVE_ERRORS as error:
        raise explain(expression, scope, type(error).__name__, str(error)) from None
    return value


def _finish(template: Template, values: list[JsonValue]) -> JsonValue:
    try:
        return build(template, values)
    except BadResult as error:
        raise ExpressionError(str(error), "") from None
