"""The first schema.

Revision: 0001.
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TABLES = """
CREATE TABLE api_keys (
    id UUID NOT NULL,
    workspace TEXT NOT NULL,
    name TEXT NOT NULL,
    role TEXT NOT NULL,
    key_hash TEXT NOT NULL,
    prefix TEXT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    created_by TEXT NOT NULL,
    last_used_at TIMESTAMP WITH TIME ZONE,
    revoked_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT api_keys_pkey PRIMARY KEY (id),
    CONSTRAINT api_keys_key_hash_key UNIQUE (key_hash)
);
CREATE INDEX api_keys_recent_idx ON api_keys (workspace, id DESC);

CREATE TABLE audit_log (
    id UUID NOT NULL,
    workspace TEXT NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    detail JSON NOT NULL,
    CONSTRAINT audit_log_pkey PRIMARY KEY (id)
);
CREATE INDEX audit_log_recent_idx ON audit_log (workspace, id DESC);

CREATE TABLE idempotency (
    workspace TEXT NOT NULL,
    key TEXT NOT NULL,
    method_path TEXT NOT NULL,
    body_hash TEXT NOT NULL,
    resource_id UUID NOT NULL,
    status SMALLINT,
    response JSON,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT idempotency_pkey PRIMARY KEY (workspace, key)
) WITH (fillfactor = 80);
CREATE INDEX idempotency_expiry_idx ON idempotency (expires_at);

CREATE TABLE node_versions (
    workspace TEXT NOT NULL,
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    manifest JSON NOT NULL,
    binding JSON,
    label TEXT,
    content_hash TEXT NOT NULL,
    status TEXT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    created_by TEXT NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT node_versions_pkey PRIMARY KEY (workspace, name, version)
);

CREATE TABLE owners (
    id UUID NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
    fenced BOOLEAN DEFAULT false NOT NULL,
    hostname TEXT NOT NULL,
    pid INTEGER NOT NULL,
    CONSTRAINT owners_pkey PRIMARY KEY (id)
) WITH (fillfactor = 50);

CREATE TABLE run_events (
    run_id UUID NOT NULL,
    seq INTEGER NOT NULL,
    type TEXT NOT NULL,
    step_id TEXT,
    item INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    data JSON NOT NULL,
    payload JSON,
    payload_ref TEXT,
    tx xid8 DEFAULT pg_current_xact_id() NOT NULL,
    CONSTRAINT run_events_pkey PRIMARY KEY (run_id, seq)
) PARTITION BY RANGE (run_id);
CREATE INDEX run_events_follow_idx ON run_events (tx, run_id, seq)
    WHERE type IN ('attempt_succeeded', 'attempt_failed', 'attempt_cancelled');

CREATE TABLE run_events_default PARTITION OF run_events DEFAULT;

CREATE TABLE runs (
    id UUID NOT NULL,
    workspace TEXT NOT NULL,
    workflow_id UUID NOT NULL,
    workflow TEXT NOT NULL,
    workflow_version INTEGER NOT NULL,
    status TEXT NOT NULL,
    owner_id UUID,
    recoveries INTEGER DEFAULT 0 NOT NULL,
    input JSON,
    input_ref TEXT,
    context JSON NOT NULL,
    pins JSON NOT NULL,
    unit_key TEXT NOT NULL,
    created_by TEXT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    finished_at TIMESTAMP WITH TIME ZONE,
    error JSON,
    CONSTRAINT runs_pkey PRIMARY KEY (id)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX runs_active_owner_idx ON runs (owner_id) WHERE finished_at IS NULL;
CREATE INDEX runs_recent_idx ON runs (workspace, id DESC);
CREATE INDEX runs_status_idx ON runs (workspace, status, id DESC);
CREATE INDEX runs_workflow_idx ON runs (workspace, workflow_id, id DESC);

CREATE TABLE secrets (
    workspace TEXT NOT NULL,
    name TEXT NOT NULL,
    ciphertext BYTEA NOT NULL,
    key_id TEXT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
    updated_by TEXT NOT NULL,
    CONSTRAINT secrets_pkey PRIMARY KEY (workspace, name)
);

CREATE TABLE shipper_cursor (
    name TEXT NOT NULL,
    tx xid8 NOT NULL,
    run_id UUID NOT NULL,
    seq INTEGER NOT NULL,
    pending JSON,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT shipper_cursor_pkey PRIMARY KEY (name)
) WITH (fillfactor = 50);

CREATE TABLE workflows (
    id UUID NOT NULL,
    workspace TEXT NOT NULL,
    name TEXT NOT NULL,
    current_version INTEGER NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
    deleted_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT workflows_pkey PRIMARY KEY (id)
);
CREATE UNIQUE INDEX workflows_live_name_key ON workflows (workspace, name) WHERE deleted_at IS NULL;

CREATE TABLE workflow_versions (
    workflow_id UUID NOT NULL,
    version INTEGER NOT NULL,
    spec JSON NOT NULL,
    spec_hash TEXT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    created_by TEXT NOT NULL,
    CONSTRAINT workflow_versions_pkey PRIMARY KEY (workflow_id, version),
    CONSTRAINT workflow_versions_workflow_id_fkey FOREIGN KEY(workflow_id) REFERENCES workflows (id)
);
"""

_APPEND_ONLY = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
"""


def upgrade() -> None:
    op.execute("CREATE EXTENSION IF NOT EXISTS vector")
    for statement in _TABLES.split(";\n"):
        if statement.strip():
            op.execute(statement)
    function, trigger = _APPEND_ONLY.split("$$;\n")
    op.execute(f"{function}$$")
    op.execute(trigger)


def downgrade() -> None:
    # The extension stays: others may use it, and it holds no data of ours.
    for table in (
        "workflow_versions",
        "workflows",
        "shipper_cursor",
        "secrets",
        "runs",
        "run_events",
        "owners",
        "node_versions",
        "idempotency",
        "audit_log",
        "api_keys",
    ):
        op.execute(f"DROP TABLE {table}")
    op.execute("DROP FUNCTION refuse_change()")
