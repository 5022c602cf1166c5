"""Routes between node versions, and the breakers of their arms.

Revision: 0003.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TABLES = """
CREATE TABLE routes (
    workspace TEXT NOT NULL,
    node TEXT NOT NULL,
    revision INTEGER NOT NULL,
    route JSON,
    reverted_to INTEGER,
    current BOOLEAN NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    created_by TEXT NOT NULL,
    CONSTRAINT routes_pkey PRIMARY KEY (workspace, node, revision)
);
CREATE UNIQUE INDEX routes_current_key ON routes (workspace, node) WHERE current;

CREATE TABLE breakers (
    workspace TEXT NOT NULL,
    node TEXT NOT NULL,
    version TEXT NOT NULL,
    opened_at TIMESTAMP WITH TIME ZONE NOT NULL,
    until TIMESTAMP WITH TIME ZONE NOT NULL,
    cooldown DOUBLE PRECISION NOT NULL,
    calls INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    probe UUID,
    probe_until TIMESTAMP WITH TIME ZONE,
    CONSTRAINT breakers_pkey PRIMARY KEY (workspace, node, version)
) WITH (fillfactor = 50)
"""


def upgrade() -> None:
    for statement in _TABLES.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    for table in ("breakers", "routes"):
        op.execute(f"DROP TABLE {table}")
