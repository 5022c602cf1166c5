"""Triggers, what they fired, and events.

Revision: 0005.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_TABLES = """
CREATE TABLE triggers (
    id UUID NOT NULL,
    workspace TEXT NOT NULL,
    workflow_id UUID NOT NULL,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    config JSON NOT NULL,
    from_spec BOOLEAN NOT NULL,
    path TEXT,
    event TEXT,
    paused BOOLEAN NOT NULL,
    next_at TIMESTAMP WITH TIME ZONE,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
    deleted_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT triggers_pkey PRIMARY KEY (id),
    CONSTRAINT triggers_workflow_id_name_key UNIQUE (workflow_id, name)
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX triggers_live_path_key ON triggers (workspace, path) WHERE deleted_at IS NULL;
CREATE INDEX triggers_path_idx ON triggers (path) WHERE deleted_at IS NULL;
CREATE INDEX triggers_event_idx ON triggers (workspace, event) WHERE deleted_at IS NULL;
CREATE INDEX triggers_due_idx ON triggers (next_at) WHERE deleted_at IS NULL;
CREATE INDEX triggers_recent_idx ON triggers (workspace, id DESC);

CREATE TABLE firings (
    id UUID NOT NULL,
    trigger_id UUID NOT NULL,
    workspace TEXT NOT NULL,
    workflow_id UUID NOT NULL,
    key TEXT NOT NULL,
    run_id UUID,
    status TEXT NOT NULL,
    input JSON,
    context JSON,
    unit_key TEXT NOT NULL,
    created_by TEXT NOT NULL,
    scheduled_for TIMESTAMP WITH TIME ZONE,
    reason TEXT,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    touched_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT firings_pkey PRIMARY KEY (id),
    CONSTRAINT firings_trigger_id_key_key UNIQUE (trigger_id, key)
) WITH (fillfactor = 80);
CREATE INDEX firings_history_idx ON firings (trigger_id, id DESC);
CREATE INDEX firings_reserved_idx ON firings (touched_at) WHERE status = 'reserved';
CREATE INDEX firings_at_idx ON firings (at);

CREATE TABLE events (
    id UUID NOT NULL,
    workspace TEXT NOT NULL,
    name TEXT NOT NULL,
    payload JSON,
    dedupe_key TEXT,
    received_at TIMESTAMP WITH TIME ZONE NOT NULL,
    created_by TEXT NOT NULL,
    dispatched_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT events_pkey PRIMARY KEY (id)
) WITH (fillfactor = 90);
CREATE INDEX events_recent_idx ON events (workspace, id DESC);
CREATE INDEX events_name_idx ON events (workspace, name, id DESC);
CREATE INDEX events_dedupe_idx ON events (workspace, name, dedupe_key, received_at) WHERE dedupe_key IS NOT NULL;
CREATE INDEX events_undispatched_idx ON events (received_at) WHERE dispatched_at IS NULL
"""


def upgrade() -> None:
    for statement in _TABLES.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    for table in ("events", "firings", "triggers"):
        op.execute(f"DROP TABLE {table}")
