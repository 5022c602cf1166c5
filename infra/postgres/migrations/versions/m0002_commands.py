"""Commands between engines, variables, how far each topic has changed, and the parents of runs.

Revision: 0002.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_TABLES = """
CREATE TABLE generations (
    topic TEXT NOT NULL,
    generation BIGINT NOT NULL,
    CONSTRAINT generations_pkey PRIMARY KEY (topic)
) WITH (fillfactor = 50);

CREATE TABLE run_commands (
    id UUID NOT NULL,
    run_id UUID NOT NULL,
    command JSON NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    done_at TIMESTAMP WITH TIME ZONE,
    refusal JSON,
    CONSTRAINT run_commands_pkey PRIMARY KEY (id)
);
CREATE INDEX run_commands_open_idx ON run_commands (run_id) WHERE done_at IS NULL;

CREATE TABLE variables (
    workspace TEXT NOT NULL,
    scope TEXT NOT NULL,
    owner TEXT NOT NULL,
    name TEXT NOT NULL,
    value JSON NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
    updated_by TEXT NOT NULL,
    CONSTRAINT variables_pkey PRIMARY KEY (workspace, scope, owner, name)
);
CREATE INDEX variables_expiry_idx ON variables (expires_at);

ALTER TABLE runs ADD COLUMN parent_id UUID;
DROP INDEX runs_recent_idx;
CREATE INDEX runs_recent_idx ON runs (workspace, id DESC) WHERE parent_id IS NULL;
CREATE INDEX runs_parent_idx ON runs (parent_id, id DESC) WHERE parent_id IS NOT NULL
"""


def upgrade() -> None:
    for statement in _TABLES.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    op.execute("DROP INDEX runs_parent_idx")
    op.execute("DROP INDEX runs_recent_idx")
    op.execute("CREATE INDEX runs_recent_idx ON runs (workspace, id DESC)")
    op.execute("ALTER TABLE runs DROP COLUMN parent_id")
    for table in ("variables", "run_commands", "generations"):
        op.execute(f"DROP TABLE {table}")
