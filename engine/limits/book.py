"""The limits of nodes, in memory: asked for before every call of a node."""

from core.ids import Workspace
from core.limit import NodeLimit
from engine.limits.ports import NodeLimitStore

TOPIC = "limits"
"""What a change of these raises the generation of."""


class NodeLimits:
    """What `NodeLimitStore` says, as of the last `reload`."""

    def __init__(self, store: NodeLimitStore) -> None:
        self._store = store
        self._limits: dict[tuple[str, str], NodeLimit] = {}

    @property
    def empty(self) -> bool:
        """Whether no node has a limit: asked for before every call, and nearly always so."""
        return not self._limits

    async def reload(self) -> None:
        """Read them again. Raises Unavailable; what was known stays."""
        self._limits = {(one.workspace, one.node): one for one in await self._store.all()}

    def of(self, workspace: Workspace, node: str) -> NodeLimit | None:
        """The limit of a node; None when there is none."""
        return self._limits.get((workspace, node))
