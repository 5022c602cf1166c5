"""The node versions that workspaces have made for themselves, kept in step with the store."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

import structlog
from pydantic import ValidationError

from core.errors import RefluxError, StepError
from core.node_version import StoredNodeVersion
from engine.node.binding import BindingSpec, bound_version
from engine.node.registry import NodeRegistry
from engine.node.version import NodeVersion

_log = structlog.get_logger(__name__)


class NodeVersionStore(Protocol):
    """Where they are stored."""

    async def load(self) -> Sequence[StoredNodeVersion]:
        """All of all workspaces. Raises Unavailable."""
        ...


class WorkspaceNodes:
    """Builds them, and gives them to the registry."""

    def __init__(self, store: NodeVersionStore, registry: NodeRegistry) -> None:
        self._store = store
        self._registry = registry
        self._built: dict[tuple[str, ...], NodeVersion] = {}
        self._loading = asyncio.Lock()

    async def reload(self) -> None:
        """Load them anew: for the topic `nodes`. Raises Unavailable."""
        async with self._loading:
            waiting = list(await self._store.load())
            built: dict[tuple[str, ...], NodeVersion] = {}
            found: dict[str, dict[str, NodeVersion]] = {}
            # Those that are built on others come after them; what is left in the end has lost its base.
            while waiting:
                left = [one for one in waiting if not await self._add(one, found.setdefault(one.workspace, {}), built)]
                if len(left) == len(waiting):
                    for one in left:
                        _log.warning("a node version cannot be used", node=one.name, version=one.version, base=one.base)
                    break
                waiting = left
            self._registry.replace({workspace: own.values() for workspace, own in found.items()})
            self._built = built

    async def _add(
        self, stored: StoredNodeVersion, own: dict[str, NodeVersion], built: dict[tuple[str, ...], NodeVersion]
    ) -> bool:
        key = (stored.workspace, stored.name, stored.version, stored.content_hash)
        version = self._built.get(key)
        if version is None:
            await asyncio.sleep(0)  # compiling takes a while; runs get their turn
            try:
                base = own.get(stored.base) or self._registry.resolve(stored.base)
                version = bound_version(BindingSpec.model_validate(stored.binding), base, stored.status)
            except (RefluxError, StepError, ValidationError):
                return False
        built[key] = version
        own[f"{stored.name}@{stored.version}"] = version.with_status(stored.status)
        return True
