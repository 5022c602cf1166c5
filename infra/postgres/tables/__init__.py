"""The tables. Migrations build them; `migrations` and these pages are held together by a test.

JSON columns are `json`, not `jsonb`: the text stays as it was written, and `\\u0000` is allowed.
"""

from infra.postgres.tables.accounts import api_keys, audit_log, idempotency, secrets
from infra.postgres.tables.base import metadata
from infra.postgres.tables.commands import generations, run_commands, variables
from infra.postgres.tables.limits import limit_scopes, node_limits, slots, step_cache, step_flights
from infra.postgres.tables.nodes import breakers, node_versions, routes
from infra.postgres.tables.runs import (
    ATTEMPT_END_TYPES,
    owners,
    run_events,
    runs,
    shipper_cursor,
    workflow_versions,
    workflows,
)
from infra.postgres.tables.tasks import tasks, workers
from infra.postgres.tables.triggers import events, firings, triggers

__all__ = [
    "ATTEMPT_END_TYPES",
    "api_keys",
    "audit_log",
    "breakers",
    "events",
    "firings",
    "generations",
    "idempotency",
    "limit_scopes",
    "metadata",
    "node_limits",
    "node_versions",
    "owners",
    "routes",
    "run_commands",
    "run_events",
    "runs",
    "secrets",
    "shipper_cursor",
    "slots",
    "step_cache",
    "step_flights",
    "tasks",
    "triggers",
    "variables",
    "workers",
    "workflow_versions",
    "workflows",
]
