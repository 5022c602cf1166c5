"""Limits: how much runs at once, how often something starts, and who comes first."""

from dataclasses import dataclass

from core.ids import OwnerId, RunId, Workspace
from core.spec import Rate


@dataclass(frozen=True, slots=True)
class Limit:
    """What a scope allows.

    Attributes:
        max: holders at once; None for any number.
        rate: how often somebody may start; None for any rate.
    """

    max: int | None = None
    rate: Rate | None = None

    @property
    def holds(self) -> bool:
        """Whether a place is kept until it is given back. A mere rate gives permission to start, and no more."""
        return self.max is not None


@dataclass(frozen=True, slots=True)
class SlotAsk:
    """A wish to start something that is limited.

    Attributes:
        scope: what is limited; see `engine.limits.scope`.
        holder: names who asks, such as `<run>:<step>`. Asking again under the same name is the same wish: whoever has
            the slot already gets it at once. For a mere rate it must be new for each start.
        run_id: the slot comes back by itself when this run has ended.
        workflow: the group among which places are shared out fairly.
        priority: 0 to 9; 9 comes first.
    """

    scope: str
    max: int | None
    rate: Rate | None
    holder: str
    run_id: RunId
    workflow: str
    priority: int = 5

    @property
    def limit(self) -> Limit:
        """What the asker believes to be allowed."""
        return Limit(self.max, self.rate)


@dataclass(frozen=True, slots=True)
class OwnedAsk:
    """An ask and the life of the engine that stands behind it."""

    ask: SlotAsk
    owner: OwnerId


@dataclass(frozen=True, slots=True)
class ScopeTurn:
    """What one process wants of a scope.

    Attributes:
        seen: number of the last grant that it has heard of.
        back: slots to give back, by holder and owner.
        asks: holders are unique.
    """

    scope: str
    seen: int = 0
    back: tuple[tuple[str, OwnerId], ...] = ()
    asks: tuple[OwnedAsk, ...] = ()


@dataclass(frozen=True, slots=True)
class ScopeAnswer:
    """What became of it.

    Attributes:
        seen: number of the last grant.
        full: all places are taken.
        limit: what the scope allows in truth.
        granted: holders of this process that were granted a slot since `seen` or have asked again for one that they
            have, with the seconds after which they may start.
    """

    scope: str
    seen: int
    full: bool
    limit: Limit
    granted: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class NodeLimit:
    """The limit of a node over all workflows of a workspace, as it was set on the server.

    Attributes:
        concurrency: calls at once; None for any number.
        rate: how often a call may start; None for any rate.
    """

    workspace: Workspace
    node: str
    concurrency: int | None = None
    rate: Rate | None = None

    @property
    def scope(self) -> str:
        """The name of what is limited."""
        return f"node:{self.workspace}:{self.node}"

    def ask(self, holder: str, run_id: RunId, workflow: str, priority: int) -> SlotAsk:
        """The ask of one call; see SlotAsk."""
        return SlotAsk(self.scope, self.concurrency, self.rate, holder, run_id, workflow, priority)


@dataclass(frozen=True, slots=True)
class ScopeUse:
    """How a scope is used now.

    Attributes:
        workflow: the name of a workflow whose runs use it.
    """

    scope: str
    limit: Limit
    in_use: int
    waiting: int
    workflow: str
