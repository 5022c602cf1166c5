"""What a request may need, running."""

from dataclasses import dataclass

from api.programs import Programs
from api.stores import Stores
from core.clock import Clock
from engine.cache.step_cache import StepCache
from engine.expression.evaluator import Evaluator
from engine.limits.book import NodeLimits
from engine.limits.limiter import Limiter
from engine.node.registry import NodeRegistry
from engine.node.workspaces import WorkspaceNodes
from engine.notices import Notices
from engine.routing.router import Router
from engine.runner import Engine
from engine.triggers.service import Triggers
from infra.clickhouse.insights import Insights
from infra.clickhouse.traces import TraceStore
from infra.metrics import Metrics
from infra.postgres.api_keys import ApiKeys
from infra.postgres.audit import AuditLog
from infra.postgres.idempotency import Idempotency
from infra.postgres.journal import PostgresJournal
from infra.postgres.runs import Runs
from infra.postgres.secrets import Secrets
from infra.postgres.workflows import Workflows
from infra.settings import Settings
from infra.shipper import TraceShipper


@dataclass(frozen=True, slots=True)
class Services:
    """See the module.

    Attributes:
        first_key: the admin key that was made at this start, to be shown once.
    """

    settings: Settings
    clock: Clock
    engine: Engine
    evaluator: Evaluator
    registry: NodeRegistry
    workspace_nodes: WorkspaceNodes
    programs: Programs
    notices: Notices
    journal: PostgresJournal
    stores: Stores
    router: Router
    limiter: Limiter
    node_limits: NodeLimits
    step_cache: StepCache
    triggers: Triggers
    traces: TraceStore
    insights: Insights
    shipper: TraceShipper
    metrics: Metrics
    first_key: str | None

    @property
    def workflows(self) -> Workflows:
        """Workflows and their versions."""
        return self.stores.workflows

    @property
    def runs(self) -> Runs:
        """Runs as they are looked up and listed."""
        return self.stores.runs

    @property
    def api_keys(self) -> ApiKeys:
        """Who may call."""
        return self.stores.api_keys

    @property
    def secrets(self) -> Secrets:
        """Secret values."""
        return self.stores.secrets

    @property
    def idempotency(self) -> Idempotency:
        """Answers to requests that may come again."""
        return self.stores.idempotency

    @property
    def audit(self) -> AuditLog:
        """Who did what."""
        return self.stores.audit
