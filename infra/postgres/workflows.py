"""Workflows and their versions. A version never changes once it is stored."""

import hashlib
import uuid
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Row, Select, Text, cast, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core.clock import Clock
from core.errors import NotFound
from core.ids import WorkflowId, Workspace
from core.json import canonical
from core.spec import WorkflowSpec
from infra.postgres.connection import transaction
from infra.postgres.page import Page, check_limit, contains_pattern, parse_cursor
from infra.postgres.tables import workflow_versions, workflows


@dataclass(frozen=True, slots=True)
class StoredWorkflow:
    """A workflow at one of its versions.

    Attributes:
        version: the version that `spec` is.
        current_version: the one that runs start with.
    """

    id: WorkflowId
    workspace: Workspace
    name: str
    version: int
    current_version: int
    spec: WorkflowSpec
    spec_hash: str
    created_at: datetime
    updated_at: datetime


OnCurrent = Callable[[AsyncConnection, StoredWorkflow, datetime], Awaitable[None]]
"""Does in the same transaction what goes with a version that becomes current."""

OnDelete = Callable[[AsyncConnection, WorkflowId, datetime], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """One line of a workflow's history."""

    version: int
    spec_hash: str
    created_at: datetime
    created_by: str
    current: bool


def spec_hash(spec: WorkflowSpec) -> str:
    """SHA-256 of the spec's canonical JSON: equal specs have equal hashes."""
    return hashlib.sha256(canonical(spec.to_json())).hexdigest()


class Workflows:
    """The tables of workflows and their versions."""

    def __init__(self, engine: AsyncEngine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    async def save(
        self, workspace: Workspace, spec: WorkflowSpec, created_by: str, on_current: OnCurrent | None = None
    ) -> StoredWorkflow:
        """Create the workflow of the spec's name, or make the spec its new current version.

        A spec equal to the current version changes nothing.

        Args:
            on_current: what else belongs to a version that becomes current.
        """
        now = self._clock.now()
        create = (
            insert(workflows)
            .values(
                id=self._clock.new_id(),
                workspace=workspace,
                name=spec.name,
                current_version=0,
                created_at=now,
                updated_at=now,
            )
            .on_conflict_do_nothing()
        )
        lock = (
            select(workflows)
            .where(workflows.c.workspace == workspace, workflows.c.name == spec.name, workflows.c.deleted_at.is_(None))
            .with_for_update()
        )
        async with transaction(self._engine) as connection:
            row = (await connection.execute(lock)).one_or_none()
            while row is None:  # not there, or deleted by another between our two statements
                await connection.execute(create)
                row = (await connection.execute(lock)).one_or_none()
            digest = spec_hash(spec)
            if row.current_version and await self._hash(connection, row.id, row.current_version) == digest:
                return await self._read(connection, _at_current().where(workflows.c.id == row.id), spec.name)
            await self._append(connection, row.id, spec, digest, created_by, now)
            saved = await self._read(connection, _at_current().where(workflows.c.id == row.id), spec.name)
            if on_current is not None:
                await on_current(connection, saved, now)
            return saved

    async def get(self, workspace: Workspace, workflow_id: WorkflowId, version: int | None = None) -> StoredWorkflow:
        """A workflow at a version, or at the current one. Raises NotFound."""
        query = _at_current() if version is None else _joined().where(workflow_versions.c.version == version)
        query = query.where(workflows.c.workspace == workspace, workflows.c.id == workflow_id)
        wanted = f"{workflow_id}" if version is None else f"{workflow_id} at version {version}"
        async with transaction(self._engine) as connection:
            return await self._read(connection, query, wanted)

    async def get_by_name(self, workspace: Workspace, name: str) -> StoredWorkflow:
        """The live workflow of that name at its current version. Raises NotFound."""
        query = _at_current().where(workflows.c.workspace == workspace, workflows.c.name == name)
        async with transaction(self._engine) as connection:
            return await self._read(connection, query, name)

    async def known(self, workspace: Workspace, references: Collection[str]) -> frozenset[str]:
        """Which of these names (or ids) are those of live workflows."""
        if not references:
            return frozenset()
        named = or_(workflows.c.name.in_(references), cast(workflows.c.id, Text).in_(references))
        query = select(workflows.c.name, workflows.c.id).where(
            workflows.c.workspace == workspace, workflows.c.deleted_at.is_(None), named
        )
        async with transaction(self._engine) as connection:
            found = (await connection.execute(query)).all()
        return frozenset(str(one) for row in found for one in row)

    async def list(
        self, workspace: Workspace, *, limit: int = 20, cursor: str | None = None, search: str | None = None
    ) -> Page[StoredWorkflow]:
        """Live workflows, newest first; `search` is part of a name, in any case. Raises Invalid."""
        check_limit(limit)
        query = _at_current().where(workflows.c.workspace == workspace)
        after = parse_cursor(cursor)
        if after is not None:
            query = query.where(workflows.c.id < after)
        if search:
            query = query.where(workflows.c.name.ilike(contains_pattern(search), escape="\\"))
        query = query.order_by(workflows.c.id.desc()).limit(limit + 1)
        async with transaction(self._engine) as connection:
            found = [_workflow(row) for row in await connection.execute(query)]
        more = len(found) > limit
        return Page(tuple(found[:limit]), str(found[limit - 1].id) if more else None)

    async def versions(self, workspace: Workspace, workflow_id: WorkflowId) -> tuple[VersionInfo, ...]:
        """All versions, newest first. Raises NotFound."""
        query = (
            _joined()
            .where(workflows.c.workspace == workspace, workflows.c.id == workflow_id)
            .order_by(workflow_versions.c.version.desc())
        )
        async with transaction(self._engine) as connection:
            rows = (await connection.execute(query)).all()
        if not rows:
            raise _missing(f"{workflow_id}")
        return tuple(
            VersionInfo(
                row.version, row.spec_hash, row.version_created_at, row.created_by, row.version == row.current_version
            )
            for row in rows
        )

    async def publish(
        self, workspace: Workspace, workflow_id: WorkflowId, version: int, on_current: OnCurrent | None = None
    ) -> StoredWorkflow:
        """Make an existing version the one that runs start with. Raises NotFound."""
        now = self._clock.now()
        exists = select(workflow_versions.c.version).where(
            workflow_versions.c.workflow_id == workflow_id, workflow_versions.c.version == version
        )
        change = (
            update(workflows)
            .where(workflows.c.workspace == workspace, workflows.c.id == workflow_id, workflows.c.deleted_at.is_(None))
            .where(exists.exists())
            .values(current_version=version, updated_at=now)
        )
        async with transaction(self._engine) as connection:
            await connection.execute(change)
            query = _joined().where(workflow_versions.c.version == version)
            query = query.where(workflows.c.workspace == workspace, workflows.c.id == workflow_id)
            published = await self._read(connection, query, f"{workflow_id} at version {version}")
            if on_current is not None:
                await on_current(connection, published, now)
            return published

    async def delete(self, workspace: Workspace, workflow_id: WorkflowId, on_delete: OnDelete | None = None) -> None:
        """Take a workflow out of use. Its runs and versions stay on record; its name is free. Raises NotFound."""
        now = self._clock.now()
        query = (
            update(workflows)
            .where(workflows.c.workspace == workspace, workflows.c.id == workflow_id, workflows.c.deleted_at.is_(None))
            .values(deleted_at=now, updated_at=now)
        )
        async with transaction(self._engine) as connection:
            if not (await connection.execute(query)).rowcount:
                raise _missing(f"{workflow_id}")
            if on_delete is not None:
                await on_delete(connection, workflow_id, now)

    async def _hash(self, connection: AsyncConnection, workflow_id: uuid.UUID, version: int) -> str | None:
        query = select(workflow_versions.c.spec_hash).where(
            workflow_versions.c.workflow_id == workflow_id, workflow_versions.c.version == version
        )
        found: str | None = await connection.scalar(query)
        return found

    async def _append(
        self,
        connection: AsyncConnection,
        workflow_id: uuid.UUID,
        spec: WorkflowSpec,
        digest: str,
        created_by: str,
        now: datetime,
    ) -> None:
        newest = select(func.coalesce(func.max(workflow_versions.c.version), 0)).where(
            workflow_versions.c.workflow_id == workflow_id
        )
        version = (await connection.scalar(newest) or 0) + 1
        await connection.execute(
            workflow_versions.insert().values(
                workflow_id=workflow_id,
                version=version,
                spec=spec.to_json(),
                spec_hash=digest,
                created_at=now,
                created_by=created_by,
            )
        )
        await connection.execute(
            update(workflows).where(workflows.c.id == workflow_id).values(current_version=version, updated_at=now)
        )

    async def _read(
        self, connection: AsyncConnection, query: Select[*tuple[object, ...]], wanted: str
    ) -> StoredWorkflow:
        row = (await connection.execute(query)).one_or_none()
        if row is None:
            raise _missing(wanted)
        return _workflow(row)


def _joined() -> Select[*tuple[object, ...]]:
    return (
        select(
            workflows,
            workflow_versions.c.version,
            workflow_versions.c.spec,
            workflow_versions.c.spec_hash,
            workflow_versions.c.created_at.label("version_created_at"),
            workflow_versions.c.created_by,
        )
        .join(workflow_versions, workflow_versions.c.workflow_id == workflows.c.id)
        .where(workflows.c.deleted_at.is_(None))
    )


def _at_current() -> Select[*tuple[object, ...]]:
    return _joined().where(workflow_versions.c.version == workflows.c.current_version)


def _workflow(row: Row[*tuple[object, ...]]) -> StoredWorkflow:
    return StoredWorkflow(
        id=WorkflowId(row.id),
        workspace=Workspace(row.workspace),
        name=row.name,
        version=row.version,
        current_version=row.current_version,
        spec=WorkflowSpec.model_validate(row.spec),
        spec_hash=row.spec_hash,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _missing(wanted: str) -> NotFound:
    return NotFound(f"there is no workflow {wanted}")
