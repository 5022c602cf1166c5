"""Commands for runs: performed here when the run is driven here, else left in the database for its owner."""

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

import structlog
from pydantic import ValidationError

from core.clock import Clock
from core.command import Command, Patch, command_adapter
from core.errors import Conflict, Fault, Forbidden, Invalid, NotFound, RefluxError, Unavailable
from core.ids import OwnerId, RunId
from engine.actor import RunActor
from engine.actor.change import Stale
from engine.ports import Commands

_log = structlog.get_logger(__name__)

_BATCH = 200
_POLL_SECONDS = 0.05
_PATIENCE_SECONDS = 15.0
"""How long an answer is waited for: a dead owner's runs are taken over in that time."""
_LOOK_AGAIN = 5

_KINDS: tuple[type[RefluxError], ...] = (Conflict, Forbidden, NotFound, Unavailable)


async def perform(actor: RunActor, command: Command) -> None:
    """Have an actor perform a command. Raises what it is refused for."""
    if not isinstance(command, Patch):
        await actor.ask(command)
        return
    if str(command.id) in actor.state.commands:
        return  # done already; what it asks for may not be possible a second time
    for _ in range(_LOOK_AGAIN):
        change = await actor.prepare_change(command.operations)
        try:
            await actor.change_graph(change, command)
        except Stale:
            continue
        return
    raise Conflict("the run moves on faster than its graph can be changed; pause it first")


class Mail:
    """See the module.

    Args:
        actor_of: the actor of a run that is driven here.
    """

    def __init__(self, commands: Commands, clock: Clock, actor_of: Callable[[RunId], RunActor | None]) -> None:
        self._commands = commands
        self._clock = clock
        self._actor_of = actor_of
        self._reading = asyncio.Lock()

    async def deliver(self, run_id: RunId, command: Command) -> None:
        """Leave a command for a run's owner, and wait for the answer.

        Raises:
            Unavailable: nobody has performed it in time; it may still be performed.
        """
        await self._commands.send(run_id, command.id, command_adapter.dump_python(command, mode="json", by_alias=True))
        until = self._clock.monotonic() + _PATIENCE_SECONDS
        while self._clock.monotonic() < until:
            settled, refusal = await self._commands.answer(command.id)
            if settled:
                if refusal is not None:
                    raise _error_of(refusal)
                return
            await asyncio.sleep(_POLL_SECONDS)
        raise Unavailable("no engine drives this run at this moment; what you asked for is done when one does")

    async def read(self, owner: OwnerId) -> None:
        """Perform what was left for runs of this owner. Raises Unavailable."""
        async with self._reading:
            for run_id, told in await self._commands.waiting(owner, _BATCH):
                actor = self._actor_of(run_id)
                if actor is None:
                    continue  # it is being taken up
                try:
                    command = command_adapter.validate_python(told)
                except ValidationError:
                    _log.error("a command cannot be read", run_id=str(run_id))
                    await self._refuse_unread(told)
                    continue
                refusal = None
                try:
                    await perform(actor, command)
                except Unavailable:
                    continue
                except RefluxError as error:
                    refusal = _json_of(error)
                await self._commands.settle(command.id, refusal)

    async def _refuse_unread(self, told: Any) -> None:
        refusal = _json_of(Invalid("this version of the server does not know what was asked", []))
        await self._commands.settle(uuid.UUID(told["id"]), refusal)


def _json_of(error: RefluxError) -> dict[str, Any]:
    told: dict[str, Any] = {"status": error.status, "detail": error.detail}
    if isinstance(error, Invalid):
        told["faults"] = [[one.path, one.code, one.message, one.suggestion] for one in error.faults]
    return told


def _error_of(told: dict[str, Any]) -> RefluxError:
    if "faults" in told:
        return Invalid(told["detail"], [Fault(*one) for one in told["faults"]])
    kind = next((one for one in _KINDS if one.status == told["status"]), Unavailable)
    return kind(told["detail"])
