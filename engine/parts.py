"""What an engine works with besides its journal. Each part is optional: a test, or an embedded use, may do without."""

from dataclasses import dataclass

from engine.cache.step_cache import StepCache
from engine.events.ports import EventLog
from engine.events.wait_index import WaitIndex
from engine.limits.book import NodeLimits
from engine.limits.limiter import Limiter
from engine.ports import SharedVariables, Workflows
from engine.remote.tasks import RemoteTasks
from engine.routing.router import Router


@dataclass(frozen=True, slots=True)
class Parts:
    """See the module.

    Attributes:
        router: draws arms, keeps breakers.
        limiter: gives out room under limits.
        limits: the limits of nodes.
        remote: has attempts performed by worker processes; None: all are performed here.
        waits: which runs wait for which events.
        events: events of the past, for a run that is taken up again.
        variables: what runs share.
        workflows: finds the workflows that steps start.
    """

    router: Router | None = None
    limiter: Limiter | None = None
    limits: NodeLimits | None = None
    cache: StepCache | None = None
    remote: RemoteTasks | None = None
    waits: WaitIndex | None = None
    events: EventLog | None = None
    variables: SharedVariables | None = None
    workflows: Workflows | None = None


ALONE = Parts()
"""An engine without any of it."""
