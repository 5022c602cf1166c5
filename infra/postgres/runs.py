"""Runs as they are looked up and listed. The engine's journal writes them."""

import uuid
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, func, or_, select
from sqlalchemy.ext.asyncio import AsyncEngine

from core.errors import NotFound
from core.ids import RunId, WorkflowId, Workspace
from core.json import JsonValue
from core.run import RunStatus
from infra.postgres.connection import transaction
from infra.postgres.page import Page, check_limit, contains_pattern, parse_cursor
from infra.postgres.tables import runs


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run in a list.

    Attributes:
        error: `{class, message, step}` of a failed run.
    """

    id: RunId
    workspace: Workspace
    workflow_id: WorkflowId
    workflow: str
    workflow_version: int
    status: RunStatus
    recoveries: int
    created_by: str
    created_at: datetime
    finished_at: datetime | None
    error: dict[str, JsonValue] | None


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs to list. What is None or empty does not narrow.

    Attributes:
        since, until: bounds of the time of creation; `until` is exclusive.
        parent: only the children of this run; without it, those that no run has started.
        nested: with children, whoever has started them.
        search: part of the workflow's name in any case, or the beginning of a run's id.
    """

    workflow_id: WorkflowId | None = None
    statuses: Collection[RunStatus] = ()
    since: datetime | None = None
    until: datetime | None = None
    search: str | None = None
    parent: RunId | None = None
    nested: bool = False


_SUMMARY = (
    runs.c.id,
    runs.c.workspace,
    runs.c.workflow_id,
    runs.c.workflow,
    runs.c.workflow_version,
    runs.c.status,
    runs.c.recoveries,
    runs.c.created_by,
    runs.c.created_at,
    runs.c.finished_at,
    runs.c.error,
)


class Runs:
    """The read side of the table of runs."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def get(self, workspace: Workspace, run_id: RunId) -> RunSummary:
        """One run, without its values. Raises NotFound."""
        query = select(*_SUMMARY).where(runs.c.id == run_id, runs.c.workspace == workspace)
        async with transaction(self._engine) as connection:
            row = (await connection.execute(query)).one_or_none()
        if row is None:
            raise NotFound(f"there is no run {run_id}")
        return _summary(row)

    async def list(
        self, workspace: Workspace, wanted: RunFilter, *, limit: int = 20, cursor: str | None = None
    ) -> Page[RunSummary]:
        """Runs, newest first. Raises Invalid for a bad limit or cursor."""
        check_limit(limit)
        conditions = _conditions(workspace, wanted)
        after = parse_cursor(cursor)
        if after is not None:
            conditions.append(runs.c.id < after)
        query = select(*_SUMMARY).where(*conditions).order_by(runs.c.id.desc()).limit(limit + 1)
        async with transaction(self._engine) as connection:
            found = [_summary(row) for row in await connection.execute(query)]
        return Page(tuple(found[:limit]), str(found[limit - 1].id) if len(found) > limit else None)

    async def count_by_status(self, workspace: Workspace, wanted: RunFilter) -> dict[RunStatus, int]:
        """How many runs stand where. Every status is a key."""
        query = select(runs.c.status, func.count()).where(*_conditions(workspace, wanted)).group_by(runs.c.status)
        async with transaction(self._engine) as connection:
            counted = {RunStatus(status): count for status, count in await connection.execute(query)}
        return {status: counted.get(status, 0) for status in RunStatus}


def _conditions(workspace: Workspace, wanted: RunFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [runs.c.workspace == workspace]
    if wanted.parent is not None:
        conditions.append(runs.c.parent_id == wanted.parent)
    elif not wanted.nested:
        conditions.append(runs.c.parent_id.is_(None))
    if wanted.workflow_id is not None:
        conditions.append(runs.c.workflow_id == wanted.workflow_id)
    if wanted.statuses:
        conditions.append(runs.c.status.in_([status.value for status in wanted.statuses]))
    if wanted.since is not None:
        conditions.append(runs.c.created_at >= wanted.since)
    if wanted.until is not None:
        conditions.append(runs.c.created_at < wanted.until)
    if wanted.search:
        conditions.append(_matches(wanted.search))
    return conditions


def _matches(words: str) -> ColumnElement[bool]:
    by_name = runs.c.workflow.ilike(contains_pattern(words), escape="\\")
    digits = words.lower().replace("-", "")
    if not digits or len(digits) > 32 or set(digits) - set("0123456789abcdef"):
        return by_name
    # A prefix of an id is a range of ids, which the index serves.
    low, high = uuid.UUID(digits.ljust(32, "0")), uuid.UUID(digits.ljust(32, "f"))
    return or_(by_name, runs.c.id.between(low, high))


def _summary(row: Row[*tuple[Any, ...]]) -> RunSummary:
    return RunSummary(
        id=RunId(row.id),
        workspace=Workspace(row.workspace),
        workflow_id=WorkflowId(row.workflow_id),
        workflow=row.workflow,
        workflow_version=row.workflow_version,
        status=RunStatus(row.status),
        recoveries=row.recoveries,
        created_by=row.created_by,
        created_at=row.created_at,
        finished_at=row.finished_at,
        error=row.error,
    )
