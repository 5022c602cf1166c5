"""The table of triggers. What makes a time fire once is here: claims are written in one transaction."""

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeAlias

from pydantic import TypeAdapter
from sqlalchemy import Row, Select, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core.clock import Clock
from core.errors import Conflict, NotFound
from core.firing import Claim, Firing, StoredTrigger, TriggerDraft
from core.ids import WorkflowId, Workspace
from core.trigger import EventTrigger, Trigger, WebhookTrigger
from infra.postgres.connection import transaction
from infra.postgres.firings import insert_firings
from infra.postgres.page import Page, check_limit, parse_cursor
from infra.postgres.tables import triggers, workflows

_adapter: TypeAdapter[Trigger] = TypeAdapter(Trigger)
_Found: TypeAlias = list[StoredTrigger]
_Fired: TypeAlias = list[Firing]


class Triggers:
    """See `engine.triggers.ports.TriggerStore`."""

    def __init__(self, engine: AsyncEngine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    async def replace(
        self, workspace: Workspace, workflow_id: WorkflowId, drafts: Sequence[TriggerDraft], now: datetime
    ) -> None:
        """See `engine.triggers.ports.TriggerStore.replace`."""
        async with transaction(self._engine) as connection:
            await self.replace_within(connection, workspace, workflow_id, drafts, now)

    async def replace_within(
        self,
        connection: AsyncConnection,
        workspace: Workspace,
        workflow_id: WorkflowId,
        drafts: Sequence[TriggerDraft],
        now: datetime,
    ) -> None:
        """As `replace`, inside the transaction that stores the version."""
        await self._check(connection, workspace, workflow_id, None, drafts)
        mine = triggers.c.workflow_id == workflow_id
        rows = {row.name: row for row in await connection.execute(select(triggers).where(mine).with_for_update())}
        # Paths first: two triggers of a workflow may exchange theirs.
        in_spec = mine & triggers.c.from_spec
        await connection.execute(update(triggers).where(in_spec).values(path=None))
        gone = in_spec & triggers.c.deleted_at.is_(None) & triggers.c.name.not_in([one.name for one in drafts])
        await connection.execute(update(triggers).where(gone).values(deleted_at=now, updated_at=now, next_at=None))
        try:
            for draft in drafts:
                values = _spec_values(draft, rows.get(draft.name), now)
                fresh = {"id": self._clock.new_id(), "workspace": workspace, "workflow_id": workflow_id, **values}
                query = insert(triggers).values(name=draft.name, **{"created_at": now, **fresh})
                await connection.execute(
                    query.on_conflict_do_update(index_elements=[triggers.c.workflow_id, triggers.c.name], set_=values)
                )
        except IntegrityError:  # another workflow took a path at this moment
            raise Conflict("a webhook path of this workflow was just taken by another one") from None

    async def remove_all_within(self, connection: AsyncConnection, workflow_id: WorkflowId, now: datetime) -> None:
        """Take all triggers of a workflow out of use, inside the transaction that deletes it."""
        mine = (triggers.c.workflow_id == workflow_id) & triggers.c.deleted_at.is_(None)
        await connection.execute(update(triggers).where(mine).values(deleted_at=now, updated_at=now, next_at=None))

    async def remove_all(self, workflow_id: WorkflowId, now: datetime) -> None:
        """See `engine.triggers.ports.TriggerStore.remove_all`."""
        async with transaction(self._engine) as connection:
            await self.remove_all_within(connection, workflow_id, now)

    async def check(self, workspace: Workspace, workflow: str, drafts: Sequence[TriggerDraft]) -> None:
        """See `engine.triggers.ports.TriggerStore.check`."""
        async with transaction(self._engine) as connection:
            await self._check(connection, workspace, None, workflow, drafts)

    async def create(
        self, trigger_id: uuid.UUID, workspace: Workspace, workflow_id: WorkflowId, draft: TriggerDraft, now: datetime
    ) -> StoredTrigger:
        """See `engine.triggers.ports.TriggerStore.create`."""
        values = {
            **_config_values(draft.config),
            "from_spec": False,
            "paused": not draft.config.enabled,
            "next_at": draft.next_at if draft.config.enabled else None,
            "created_at": now,
            "updated_at": now,
            "deleted_at": None,
        }
        query = insert(triggers).values(
            id=trigger_id, workspace=workspace, workflow_id=workflow_id, name=draft.name, **values
        )
        made = query.on_conflict_do_update(
            index_elements=[triggers.c.workflow_id, triggers.c.name],
            set_=values,
            where=triggers.c.deleted_at.is_not(None),
        ).returning(triggers.c.id)
        async with transaction(self._engine) as connection:
            itself = (triggers.c.workflow_id == workflow_id) & (triggers.c.name == draft.name)
            await self._check_paths(connection, workspace, ~itself, [draft])
            try:
                found = await connection.scalar(made)
            except IntegrityError:
                raise Conflict("the webhook path was just taken by another trigger") from None
            if found is None:
                raise Conflict(f"the workflow has a trigger named `{draft.name}` already; choose another `name`")
            return await _one(connection, workspace, found)

    async def get(self, workspace: Workspace, trigger_id: uuid.UUID) -> StoredTrigger:
        """See `engine.triggers.ports.TriggerStore.get`."""
        async with transaction(self._engine) as connection:
            return await _one(connection, workspace, trigger_id)

    async def list(
        self,
        workspace: Workspace,
        *,
        workflow_id: WorkflowId | None = None,
        kind: str | None = None,
        limit: int = 20,
        cursor: str | None = None,
    ) -> Page[StoredTrigger]:
        """Triggers in use, newest first. Raises Invalid for a bad limit or cursor."""
        check_limit(limit)
        query = _live().where(triggers.c.workspace == workspace)
        if workflow_id is not None:
            query = query.where(triggers.c.workflow_id == workflow_id)
        if kind is not None:
            query = query.where(triggers.c.kind == kind)
        after = parse_cursor(cursor)
        if after is not None:
            query = query.where(triggers.c.id < after)
        found = await self._all(query.order_by(triggers.c.id.desc()).limit(limit + 1))
        return Page(tuple(found[:limit]), str(found[limit - 1].id) if len(found) > limit else None)

    async def delete(self, workspace: Workspace, trigger_id: uuid.UUID, now: datetime) -> None:
        """See `engine.triggers.ports.TriggerStore.delete`."""
        mine = (triggers.c.id == trigger_id) & (triggers.c.workspace == workspace) & triggers.c.deleted_at.is_(None)
        query = update(triggers).where(mine).values(deleted_at=now, updated_at=now, next_at=None)
        async with transaction(self._engine) as connection:
            if not (await connection.execute(query)).rowcount:
                raise _missing(trigger_id)

    async def set_paused(
        self, workspace: Workspace, trigger_id: uuid.UUID, paused: bool, next_at: datetime | None, now: datetime
    ) -> StoredTrigger:
        """See `engine.triggers.ports.TriggerStore.set_paused`. What is so already stays as it is."""
        mine = (triggers.c.id == trigger_id) & (triggers.c.workspace == workspace) & triggers.c.deleted_at.is_(None)
        query = update(triggers).where(mine, triggers.c.paused != paused)
        async with transaction(self._engine) as connection:
            await connection.execute(query.values(paused=paused, next_at=next_at, updated_at=now))
            return await _one(connection, workspace, trigger_id)

    async def webhooks(self, path: str) -> _Found:
        """See `engine.triggers.ports.TriggerStore.webhooks`."""
        return await self._all(_live().where(triggers.c.path == path).limit(100))

    async def for_event(self, workspace: Workspace, event: str) -> _Found:
        """See `engine.triggers.ports.TriggerStore.for_event`."""
        wanted = (triggers.c.workspace == workspace) & (triggers.c.event == event) & ~triggers.c.paused
        return await self._all(_live().where(wanted).order_by(triggers.c.id))

    async def due(self, now: datetime, limit: int) -> _Found:
        """See `engine.triggers.ports.TriggerStore.due`."""
        query = _live().where(triggers.c.next_at <= now, ~triggers.c.paused)
        return await self._all(query.order_by(triggers.c.next_at).limit(limit))

    async def claim(self, claims: Sequence[Claim]) -> _Fired:
        """See `engine.triggers.ports.TriggerStore.claim`."""
        lock = (
            select(triggers.c.id, triggers.c.next_at)
            .where(triggers.c.id.in_([one.trigger_id for one in claims]))
            .where(~triggers.c.paused, triggers.c.deleted_at.is_(None))
            .with_for_update(skip_locked=True)
        )
        async with transaction(self._engine) as connection:
            seen = {row.id: row.next_at for row in await connection.execute(lock)}
            mine = [one for one in claims if seen.get(one.trigger_id) == one.due]
            if not mine:
                return []
            for one in mine:
                query = update(triggers).where(triggers.c.id == one.trigger_id).values(next_at=one.next_at)
                await connection.execute(query)
            return await insert_firings(connection, [firing for one in mine for firing in one.firings])

    async def _all(self, query: Select[Any]) -> _Found:
        async with transaction(self._engine) as connection:
            return [_trigger(row) for row in await connection.execute(query)]

    async def _check(
        self,
        connection: AsyncConnection,
        workspace: Workspace,
        workflow_id: WorkflowId | None,
        workflow: str | None,
        drafts: Sequence[TriggerDraft],
    ) -> None:
        mine = workflows.c.name == workflow if workflow_id is None else workflows.c.id == workflow_id
        await self._check_paths(connection, workspace, ~(mine & triggers.c.from_spec), drafts)
        query = (
            _live()
            .where(workflows.c.workspace == workspace, mine, ~triggers.c.from_spec)
            .where(triggers.c.name.in_([one.name for one in drafts]))
        )
        taken = (await connection.execute(query.limit(1))).first()
        if taken is not None:
            way_out = f"delete it (DELETE /triggers/{taken.id}) or choose another name"
            raise Conflict(f"the trigger `{taken.name}` was made beside the spec; {way_out}")

    async def _check_paths(
        self, connection: AsyncConnection, workspace: Workspace, others: Any, drafts: Sequence[TriggerDraft]
    ) -> None:
        paths = [one.config.path for one in drafts if isinstance(one.config, WebhookTrigger)]
        if not paths:
            return
        query = _live().where(triggers.c.workspace == workspace, triggers.c.path.in_(paths), others).limit(1)
        taken = (await connection.execute(query)).first()
        if taken is not None:
            owner = f"the trigger `{taken.name}` of the workflow `{taken.workflow}`"
            raise Conflict(f"the webhook path `{taken.path}` is taken by {owner}; choose another path")


def _live() -> Select[Any]:
    return (
        select(triggers, workflows.c.name.label("workflow"))
        .join(workflows, workflows.c.id == triggers.c.workflow_id)
        .where(triggers.c.deleted_at.is_(None), workflows.c.deleted_at.is_(None))
    )


async def _one(connection: AsyncConnection, workspace: Workspace, trigger_id: uuid.UUID) -> StoredTrigger:
    query = _live().where(triggers.c.id == trigger_id, triggers.c.workspace == workspace)
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise _missing(trigger_id)
    return _trigger(row)


def _config_values(config: Trigger) -> dict[str, Any]:
    return {
        "kind": config.type,
        "config": config.model_dump(mode="json", exclude_unset=True),
        "path": config.path if isinstance(config, WebhookTrigger) else None,
        "event": (config.event or config.name) if isinstance(config, EventTrigger) else None,
    }


def _spec_values(draft: TriggerDraft, known: Row[Any] | None, now: datetime) -> dict[str, Any]:
    """What the row becomes. A pause stays, unless the spec itself now says otherwise by `enabled`."""
    values = {**_config_values(draft.config), "from_spec": True, "updated_at": now, "deleted_at": None}
    enabled = draft.config.enabled
    if known is None:
        return {**values, "paused": not enabled, "next_at": draft.next_at if enabled else None}
    paused = known.paused if known.config.get("enabled", True) == enabled else not enabled
    same_times = known.next_at is not None and _times(known.config) == _times(values["config"])
    next_at = known.next_at if same_times else draft.next_at
    if known.deleted_at is not None:
        values["created_at"] = now  # events from before it came back are none of its
    return {**values, "paused": paused, "next_at": None if paused else next_at}


def _times(config: dict[str, Any]) -> tuple[Any, Any]:
    return config.get("schedule"), config.get("timezone", "UTC")


def _trigger(row: Row[Any]) -> StoredTrigger:
    return StoredTrigger(
        id=row.id,
        workspace=Workspace(row.workspace),
        workflow_id=WorkflowId(row.workflow_id),
        workflow=row.workflow,
        name=row.name,
        config=_adapter.validate_python(row.config),
        from_spec=row.from_spec,
        paused=row.paused,
        next_at=row.next_at,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _missing(trigger_id: uuid.UUID) -> NotFound:
    return NotFound(f"there is no trigger {trigger_id}")
