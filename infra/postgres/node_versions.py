"""Node versions that were made through the API. What they are never changes; where they stand in their life does."""

import hashlib
from typing import Any

from sqlalchemy import Row, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core.clock import Clock
from core.errors import Conflict, NotFound
from core.ids import Workspace
from core.json import canonical
from core.manifest import NodeManifest, NodeStatus
from core.node_version import StoredNodeVersion
from infra.postgres.connection import transaction
from infra.postgres.generations import raise_generation
from infra.postgres.tables import node_versions, routes

TOPIC = "nodes"

_NEXT = {NodeStatus.DRAFT: NodeStatus.STAGING, NodeStatus.STAGING: NodeStatus.PRODUCTION}


class NodeVersions:
    """The table of node versions.

    Raises (every call):
        Unavailable: the database does not answer.
    """

    def __init__(self, engine: AsyncEngine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    async def load(self) -> list[StoredNodeVersion]:
        """All bindings of all workspaces, the oldest first."""
        query = select(node_versions).where(node_versions.c.binding.is_not(None))
        async with transaction(self._engine) as connection:
            rows = await connection.execute(query.order_by(node_versions.c.created_at, node_versions.c.version))
            return [_stored(row) for row in rows]

    async def add(
        self,
        workspace: Workspace,
        manifest: NodeManifest,
        binding: dict[str, Any],
        base: str,
        label: str | None,
        created_by: str,
    ) -> tuple[StoredNodeVersion, bool]:
        """Store a version. One that is there already, with the same content, stays as it is.

        Args:
            binding: what its author wrote; decides what the same content is.
            base: exact reference of what it is built on.

        Returns:
            the version as it is stored, and whether it is new.

        Raises:
            Conflict: this version exists with other content.
        """
        now = self._clock.now()
        digest = hashlib.sha256(canonical(binding)).hexdigest()
        create = (
            insert(node_versions)
            .values(
                workspace=workspace,
                name=manifest.name,
                version=manifest.version,
                manifest=manifest.model_dump(mode="json"),
                binding={"spec": binding, "base": base},
                label=label,
                content_hash=digest,
                status=manifest.status.value,
                created_at=now,
                created_by=created_by,
                updated_at=now,
            )
            .on_conflict_do_nothing()
        )
        async with transaction(self._engine) as connection:
            new = bool((await connection.execute(create)).rowcount)
            found = await _read(connection, workspace, manifest.name, manifest.version)
            if found.content_hash != digest:
                raise Conflict(f"{found.name}@{found.version} exists with other content; give the change a new version")
            if new:
                await raise_generation(connection, TOPIC)
            return found, new

    async def get(self, workspace: Workspace, name: str, version: str) -> StoredNodeVersion:
        """One version. Raises NotFound."""
        async with transaction(self._engine) as connection:
            return await _read(connection, workspace, name, version)

    async def promote(self, workspace: Workspace, name: str, version: str) -> StoredNodeVersion:
        """Move a version one stage: draft, staging, production.

        Raises:
            NotFound: there is no such version.
            Conflict: it is in production, or deprecated.
        """
        async with transaction(self._engine) as connection:
            found = await _read(connection, workspace, name, version)
            following = _NEXT.get(found.status)
            if following is None:
                raise Conflict(f"{name}@{version} is {found.status.value}; only draft and staging can be promoted")
            return await self._set(connection, found, following)

    async def deprecate(self, workspace: Workspace, name: str, version: str) -> StoredNodeVersion:
        """Take a version out of the choice; it is still found by its exact number.

        Raises:
            NotFound: there is no such version.
            Conflict: the node's route names it.
        """
        current = select(routes.c.route).where(routes.c.workspace == workspace, routes.c.node == name, routes.c.current)
        async with transaction(self._engine) as connection:
            found = await _read(connection, workspace, name, version)
            if found.status is NodeStatus.DEPRECATED:
                return found
            route = await connection.scalar(current)
            if route is not None and any(arm["version"] == version for arm in route["arms"]):
                raise Conflict(f"the route of {name} names the version {version}; take it out of the route first")
            return await self._set(connection, found, NodeStatus.DEPRECATED)

    async def _set(
        self, connection: AsyncConnection, found: StoredNodeVersion, status: NodeStatus
    ) -> StoredNodeVersion:
        query = update(node_versions).where(*_is(found.workspace, found.name, found.version))
        await connection.execute(query.values(status=status.value, updated_at=self._clock.now()))
        await raise_generation(connection, TOPIC)
        return await _read(connection, Workspace(found.workspace), found.name, found.version)


async def _read(connection: AsyncConnection, workspace: Workspace, name: str, version: str) -> StoredNodeVersion:
    query = select(node_versions).where(*_is(workspace, name, version), node_versions.c.binding.is_not(None))
    row = (await connection.execute(query.with_for_update())).one_or_none()
    if row is None:
        raise NotFound(f"there is no version {version} of the node {name}")
    return _stored(row)


def _is(workspace: str, name: str, version: str) -> tuple[Any, ...]:
    table = node_versions.c
    return table.workspace == workspace, table.name == name, table.version == version


def _stored(row: Row[Any]) -> StoredNodeVersion:
    return StoredNodeVersion(
        workspace=row.workspace,
        name=row.name,
        version=row.version,
        label=row.label,
        status=NodeStatus(row.status),
        binding=row.binding["spec"],
        base=row.binding["base"],
        content_hash=row.content_hash,
        created_at=row.created_at,
        created_by=row.created_by,
        updated_at=row.updated_at,
    )
