"""Triggers of one process: stored, fired by clock, request, event and person, and made up for after a crash."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from core.clock import Clock
from core.errors import Conflict, Fault, Invalid, NotFound, Unavailable
from core.event import Event
from core.firing import DELIVERY, Firing, FiringStatus, StoredTrigger, TriggerDraft
from core.ids import RunId, WorkflowId, Workspace
from core.json import JsonValue
from core.trigger import CronTrigger, EventTrigger, ManualTrigger, Trigger, WebhookTrigger
from engine.expression.evaluator import Evaluator
from engine.triggers.cron import CronLoop, context_of
from engine.triggers.dispatch import Dispatch
from engine.triggers.inputs import Unusable, cron_input, event_input, manual_input, unit_key
from engine.triggers.naming import names_of
from engine.triggers.ports import EventStore, FiringStore, Runs, Secrets, TriggerStore
from engine.triggers.schedule import Schedule
from engine.triggers.starter import Starter
from engine.triggers.webhook import WebhookRequest, about, check_signature, delivery_of, input_of

_log = structlog.get_logger(__name__)

DEDUPE = timedelta(hours=24)
"""How long an event's dedupe key is remembered."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of a request to a webhook: its firing, and whether it is one that came before."""

    firing: Firing
    replayed: bool


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of an event.

    Attributes:
        event: the event; of a duplicate, the first one.
        started: runs that its triggers started.
        woken: runs that waited for it in this process; others wake within a moment.
    """

    event: Event
    duplicate: bool = False
    started: tuple[RunId, ...] = ()
    woken: int = 0


class Triggers:
    """See the module.

    Args:
        on_event: told of each event that is received here; gives how many runs it woke (`EventFeed.deliver`).
    """

    def __init__(
        self,
        store: TriggerStore,
        firings: FiringStore,
        events: EventStore,
        runs: Runs,
        secrets: Secrets,
        evaluator: Evaluator,
        clock: Clock,
        on_event: Callable[[Event], Awaitable[int]],
    ) -> None:
        self._store = store
        self._firings = firings
        self._events = events
        self._secrets = secrets
        self._evaluator = evaluator
        self._clock = clock
        self._on_event = on_event
        self._starter = Starter(firings, runs, clock)
        self._cron = CronLoop(store, self._starter, evaluator, clock)
        self._dispatch = Dispatch(store, firings, events, self._starter, evaluator, clock)
        self._tasks: tuple[asyncio.Task[None], ...] = ()

    def start(self) -> None:
        """Watch the clock, and what other processes leave behind, until `aclose`."""
        loops = (self._cron.run(), self._starter.keep_sweeping(), self._dispatch.keep_sweeping())
        self._tasks = tuple(asyncio.create_task(one) for one in loops)

    async def aclose(self) -> None:
        """Stop. What is under way is recorded, and goes on in another process or at the next start."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tasks = ()

    # --- what there is -------------------------------------------------------------------------------------------

    def drafts(self, triggers: Sequence[Trigger]) -> list[TriggerDraft]:
        """The triggers of a spec as they are stored: with names and next times."""
        names = names_of(triggers)
        return [TriggerDraft(name, one, self._next_at(one)) for name, one in zip(names, triggers, strict=True)]

    async def check(self, workspace: Workspace, workflow: str, triggers: Sequence[Trigger]) -> None:
        """Raise Conflict when the workflow of that name cannot have these triggers: a webhook's path is taken."""
        if triggers:
            await self._store.check(workspace, workflow, self.drafts(triggers))

    async def sync(self, workspace: Workspace, workflow_id: WorkflowId, triggers: Sequence[Trigger]) -> None:
        """Make these the triggers that stand in the workflow's spec, because a version of it became current.

        Raises:
            Conflict: a webhook's path or a name is taken.
        """
        await self._store.replace(workspace, workflow_id, self.drafts(triggers), self._clock.now())

    async def remove_all(self, workflow_id: WorkflowId) -> None:
        """Take all triggers of a workflow out of use, because it is deleted."""
        await self._store.remove_all(workflow_id, self._clock.now())

    async def create(self, workspace: Workspace, workflow_id: WorkflowId, config: Trigger) -> StoredTrigger:
        """Make a trigger beside the spec. Raises Conflict when its name or path is taken."""
        (draft,) = self.drafts([config])
        return await self._store.create(self._clock.new_id(), workspace, workflow_id, draft, self._clock.now())

    async def delete(self, workspace: Workspace, trigger_id: uuid.UUID) -> StoredTrigger:
        """Take a trigger out of use. Raises NotFound, and Conflict when it stands in the spec."""
        trigger = await self._store.get(workspace, trigger_id)
        if trigger.from_spec:
            way_out = "take it out of the spec and save that, or pause it"
            raise Conflict(f"the trigger `{trigger.name}` stands in the spec of `{trigger.workflow}`; {way_out}")
        await self._store.delete(workspace, trigger_id, self._clock.now())
        return trigger

    async def set_paused(self, workspace: Workspace, trigger_id: uuid.UUID, paused: bool) -> StoredTrigger:
        """Pause or resume. Times that pass during a pause are not made up for. Raises NotFound."""
        trigger = await self._store.get(workspace, trigger_id)
        next_at = None if paused else self._next_at(trigger.config)
        return await self._store.set_paused(workspace, trigger_id, paused, next_at, self._clock.now())

    # --- firing --------------------------------------------------------------------------------------------------

    async def fire(self, trigger: StoredTrigger, given: JsonValue, by: str, run_id: uuid.UUID | None = None) -> Firing:
        """Fire by hand, also when the trigger is paused.

        Args:
            given: the run's input; for an event trigger the event's payload; None for what the trigger says itself.
            run_id: the id that the run shall have; the same id never starts a second run.

        Raises:
            Invalid: the input cannot be made, or does not fit the workflow.
        """
        now = self._clock.now()
        reserved = RunId(run_id or self._clock.new_id())
        draft = self._draft(trigger, f"manual:{reserved}", reserved, by)
        unit = ""
        try:
            match trigger.config:
                case CronTrigger() if given is None:
                    given = await cron_input(self._evaluator, trigger, now, now)
                case EventTrigger():
                    event = Event(reserved, trigger.workspace, trigger.config.event or trigger.name, given, now)
                    given, unit = await event_input(self._evaluator, trigger.config, event)
                case ManualTrigger():
                    given = manual_input(trigger.config, given)
        except Unusable as error:
            raise await self._failed(draft, str(error)) from None
        return (await self._accept(replace(draft, input={} if given is None else given, unit_key=unit))).firing

    async def webhooks(self, path: str) -> list[StoredTrigger]:
        """The webhooks of a path, of all workspaces. Raises NotFound when there is none."""
        found = await self._store.webhooks(path)
        if not found:
            raise NotFound(f"there is no webhook at {path}")
        return found

    async def check_signature(self, trigger: StoredTrigger, request: WebhookRequest) -> None:
        """Make sure that a request is signed with the trigger's secret.

        Raises:
            Refused: it is not.
            Unavailable: the secret is not stored.
        """
        assert isinstance(trigger.config, WebhookTrigger)
        name = trigger.config.secret or ""
        secret = (await self._secrets.get_many(trigger.workspace, [name])).get(name)
        if secret is None:
            _log.warning("the secret of a webhook is missing", trigger=trigger.name, secret=name)
            raise Unavailable("this webhook is not ready: the secret that signs its requests has not been stored")
        check_signature(request, secret, trigger.config.tolerance, self._clock.now())

    async def webhook(self, trigger: StoredTrigger, request: WebhookRequest) -> Delivery:
        """Fire for a request that is genuine.

        Raises:
            Conflict: the trigger is paused.
            Invalid: the input does not fit the workflow; the firing is refused.
            NotReadable, NotReadableType: there is no sense in the body.
        """
        assert isinstance(trigger.config, WebhookTrigger)
        if trigger.paused:
            raise Conflict("this webhook is paused; send the request again later")
        delivery = delivery_of(request)
        run_id = RunId(self._clock.new_id())
        draft = self._draft(trigger, DELIVERY + (delivery or str(run_id)), run_id, f"trigger:{trigger.name}")
        given = input_of(request, trigger.config.request)
        scope = {"body": input_of(request, with_request=False), "request": about(request)}
        try:
            unit = await unit_key(self._evaluator, trigger.config.unit_key, scope)
        except Unusable as error:
            raise await self._failed(draft, str(error)) from None
        return await self._accept(replace(draft, input=given, unit_key=unit))

    async def event(
        self,
        workspace: Workspace,
        name: str,
        payload: JsonValue,
        dedupe_key: str | None,
        by: str,
        event_id: uuid.UUID | None = None,
    ) -> Receipt:
        """Receive an event: wake who waits for it, and start what it triggers. Raises Unavailable."""
        now = self._clock.now()
        event = Event(event_id or self._clock.new_id(), workspace, name, payload, now, dedupe_key, by)
        accepted = await self._events.add(event, now - DEDUPE)
        if accepted.duplicate:
            return Receipt(accepted.event, duplicate=True)
        woken = await self._on_event(event)
        started: list[RunId] = []
        if accepted.has_triggers:
            try:
                started = await self._dispatch.dispatch(event)
            except Unavailable as error:
                # It is stored: it is matched with the triggers as soon as the database is back.
                _log.warning("an event waits for its triggers", event_id=str(event.id), detail=error.detail)
        return Receipt(event, started=tuple(started), woken=woken)

    # --- inside --------------------------------------------------------------------------------------------------

    def _next_at(self, config: Trigger) -> datetime | None:
        if not isinstance(config, CronTrigger):
            return None
        return Schedule(config.schedule, config.timezone).next_after(self._clock.now())

    def _draft(self, trigger: StoredTrigger, key: str, run_id: RunId, by: str) -> Firing:
        return Firing(
            id=self._clock.new_id(),
            trigger_id=trigger.id,
            workspace=trigger.workspace,
            workflow_id=trigger.workflow_id,
            key=key,
            run_id=run_id,
            status=FiringStatus.RESERVED,
            at=self._clock.now(),
            context=context_of(trigger),
            created_by=by,
        )

    async def _failed(self, draft: Firing, reason: str) -> Invalid:
        spent = f"{draft.key}#{draft.id}"
        await self._firings.reserve([replace(draft, key=spent, run_id=None, status=FiringStatus.FAILED, reason=reason)])
        return Invalid(reason, [Fault("$", "bad_expression", reason)])

    async def _accept(self, draft: Firing) -> Delivery:
        """Record a firing and start its run; or find the one that has its key."""
        if await self._firings.reserve([draft]):
            try:
                return Delivery(await self._starter.start(draft), replayed=False)
            except Unavailable as error:
                # It is recorded, so its run starts as soon as it can.
                _log.warning("a firing waits", firing=str(draft.id), detail=error.detail)
                return Delivery(draft, replayed=False)
        first = await self._firings.by_key(draft.trigger_id, draft.key)
        if first is None:  # it was refused at this moment: its key is free again
            return await self._accept(replace(draft, id=self._clock.new_id()))
        again = replace(
            draft,
            key=f"again:{draft.id}",
            run_id=first.run_id,
            status=FiringStatus.DUPLICATE,
            input=None,
            reason=f"sent before, as {first.key.removeprefix(DELIVERY)}",
        )
        await self._firings.reserve([again])
        return Delivery(first, replayed=True)
