"""Performs one attempt: reveals secrets at the last moment, bounds its time, and cleans what comes back.

A coroutine that ignores its cancellation cannot be stopped from outside, but it can be left behind: the attempt
ends on time whatever the node does, and its late result is thrown away.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from core.clock import Clock
from core.duration import format_duration
from core.errors import ErrorClass, RefluxError, StepError
from core.ids import Workspace
from core.json import JsonError, JsonValue, encode
from core.trace import TraceStatus
from engine.expression.secret import reveal
from engine.node.context import StepContext
from engine.node.process import NodeProcesses
from engine.node.version import Lane, NodeVersion
from engine.outcome import Outcome, Usage
from engine.patience import patiently
from engine.ports import Secrets
from engine.scrub import Scrubber

_log = structlog.get_logger(__name__)

MAX_OUTPUT_BYTES = 16 * 1024 * 1024
"""Largest output of an attempt, as JSON."""

_RECANCEL_SECONDS = 1.0


class Performer:
    """See the module."""

    def __init__(self, clock: Clock, secrets: Secrets, processes: NodeProcesses) -> None:
        self._clock = clock
        self._processes = processes
        self._secrets = secrets
        self._left_behind: set[asyncio.Future[Any]] = set()

    def inline(self, node: NodeVersion, params: Mapping[str, Any], context: StepContext) -> Outcome:
        """An attempt of a quick, pure node: no time limit, no secrets, no task of its own."""
        started = self._clock.monotonic()
        try:
            output = node.call(params, context)
        except StepError as error:
            return self._failed(started, error, Scrubber(()), context)
        except (RefluxError, RecursionError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            return self._failed(started, _internal(error), Scrubber(()), context)
        return self._succeeded(started, output, Scrubber(()), context)

    async def perform(
        self,
        node: NodeVersion,
        params: Mapping[str, Any],
        context: StepContext,
        workspace: Workspace,
        secret_names: Sequence[str],
    ) -> Outcome:
        """An attempt with all guards. Never raises but for its own cancellation."""
        started = self._clock.monotonic()
        scrubber = Scrubber(())
        try:
            if secret_names:
                values = await self._secret_values(workspace, secret_names, context.timeout)
                scrubber = Scrubber(values.values())
                params = reveal(params, values)
        except StepError as error:
            return self._failed(started, error, scrubber, context)
        call = asyncio.ensure_future(self._call(node, params, context))
        try:
            await asyncio.wait((call,), timeout=context.timeout)
        except asyncio.CancelledError:
            self._leave(call)
            raise
        scrubber = scrubber.extended(context.reported.sensitive)
        if not call.done():
            self._leave(call)
            late = StepError(
                ErrorClass.TIMEOUT, f"not finished within {format_duration(context.timeout)}", outcome_unknown=True
            )
            return self._failed(started, late, scrubber, context)
        return self._ended(started, call, scrubber, context)

    def _ended(self, started: float, call: asyncio.Future[Any], scrubber: Scrubber, context: StepContext) -> Outcome:
        if call.cancelled():
            error = StepError(ErrorClass.INTERNAL, "the node cancelled itself")
            return self._failed(started, error, scrubber, context)
        raised = call.exception()
        if raised is not None:
            error = raised if isinstance(raised, StepError) else _internal(raised)
            return self._failed(started, error, scrubber, context)
        return self._succeeded(started, call.result(), scrubber, context)

    async def _call(self, node: NodeVersion, params: Mapping[str, Any], context: StepContext) -> JsonValue:
        if node.lane is Lane.PROCESS:
            return await self._processes.run(node, params, context)
        try:
            return await node(params, context)
        except SystemExit as error:  # asyncio would end the server with it
            raise StepError(ErrorClass.INTERNAL, f"the node called exit({error.code!r})"[:500]) from None

    async def _secret_values(self, workspace: Workspace, names: Sequence[str], seconds: float) -> dict[str, str]:
        try:
            async with asyncio.timeout(seconds):
                return await patiently(lambda: self._secrets.get_many(workspace, names), "secrets")
        except TimeoutError:
            raise StepError(ErrorClass.TIMEOUT, "the secrets could not be read in time") from None
        except RefluxError as error:
            raise StepError(ErrorClass.INTERNAL, f"the secrets cannot be read: {error.detail}") from error

    async def aclose(self) -> None:
        """Cancel what was left behind, and wait for it a moment."""
        for call in self._left_behind:
            call.cancel()
        if self._left_behind:
            await asyncio.wait(self._left_behind, timeout=0.2)

    def _leave(self, call: asyncio.Future[Any]) -> None:
        self._left_behind.add(call)
        call.add_done_callback(self._forget)
        self._cancel_again(call)

    def _cancel_again(self, call: asyncio.Future[Any]) -> None:
        if not call.done():
            call.cancel()
            asyncio.get_running_loop().call_later(_RECANCEL_SECONDS, self._cancel_again, call)

    def _forget(self, call: asyncio.Future[Any]) -> None:
        self._left_behind.discard(call)
        if not call.cancelled():
            call.exception()  # seen, so that it is not reported as never retrieved

    def _elapsed_ms(self, started: float) -> float:
        return (self._clock.monotonic() - started) * 1000

    def _succeeded(self, started: float, output: JsonValue, scrubber: Scrubber, context: StepContext) -> Outcome:
        latency = self._elapsed_ms(started)
        try:
            encoded = encode(output)
            if len(encoded) > MAX_OUTPUT_BYTES:
                raise JsonError(f"{len(encoded)} bytes are more than the {MAX_OUTPUT_BYTES} that an output may have")
            output, encoded = scrubber.value(output, encoded)
        except JsonError as error:
            bad = StepError(ErrorClass.DECODE, f"the output cannot be stored as JSON: {error}")
            return Outcome(TraceStatus.ERROR, latency, error=bad, usage=_usage(context))
        return Outcome(TraceStatus.OK, latency, output, encoded, usage=_usage(context))

    def _failed(
        self,
        started: float,
        error: StepError,
        scrubber: Scrubber,
        context: StepContext,
    ) -> Outcome:
        late = error.error_class is ErrorClass.TIMEOUT
        status = TraceStatus.TIMEOUT if late else TraceStatus.ERROR
        return Outcome(status, self._elapsed_ms(started), error=scrubber.error(error), usage=_usage(context))


def _usage(context: StepContext) -> Usage:
    reported = context.reported
    return Usage(reported.metrics, reported.cost_usd, reported.tokens_in, reported.tokens_out)


def _internal(error: BaseException) -> StepError:
    try:
        text = str(error)[:500].encode("utf-8", "replace").decode()
    except Exception:  # noqa: BLE001 -- the error is the node's own, and so is its `__str__`
        text = "it has no readable message"
    return StepError(ErrorClass.INTERNAL, f"{type(error).__name__}: {text}")
