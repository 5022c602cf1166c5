"""Attempts that worker processes perform, and the workers.

Revision: 0006.
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_TABLES = """
CREATE TABLE tasks (
    id UUID NOT NULL,
    run_id UUID NOT NULL,
    step_id TEXT NOT NULL,
    item INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    workspace TEXT NOT NULL,
    group_name TEXT NOT NULL,
    node TEXT NOT NULL,
    node_version TEXT NOT NULL,
    effect TEXT NOT NULL,
    parameters JSON,
    parameters_ref TEXT,
    secret_names JSON NOT NULL,
    context JSON NOT NULL,
    timeout DOUBLE PRECISION NOT NULL,
    priority SMALLINT NOT NULL,
    status TEXT NOT NULL,
    waiter UUID NOT NULL,
    claimed_by UUID,
    lease_until TIMESTAMP WITH TIME ZONE,
    claims INTEGER DEFAULT 0 NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    published INTEGER DEFAULT 1 NOT NULL,
    publish_at TIMESTAMP WITH TIME ZONE NOT NULL,
    outcome JSON,
    output JSON,
    output_ref TEXT,
    finished_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT tasks_pkey PRIMARY KEY (id)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX tasks_open_idx ON tasks (group_name, publish_at) WHERE status IN ('queued', 'claimed');
CREATE INDEX tasks_lease_idx ON tasks (lease_until) WHERE status = 'claimed';
CREATE INDEX tasks_ended_idx ON tasks (waiter) WHERE status IN ('done', 'lost', 'cancelled');
CREATE INDEX tasks_run_idx ON tasks (run_id);

CREATE TABLE workers (
    id UUID NOT NULL,
    groups TEXT[] NOT NULL,
    hostname TEXT NOT NULL,
    pid INTEGER NOT NULL,
    concurrency INTEGER NOT NULL,
    running INTEGER NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT workers_pkey PRIMARY KEY (id)
) WITH (fillfactor = 50)
"""


def upgrade() -> None:
    for statement in _TABLES.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    for table in ("workers", "tasks"):
        op.execute(f"DROP TABLE {table}")
