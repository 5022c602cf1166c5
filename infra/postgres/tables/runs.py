"""Workflows, their runs, and the journal."""

from sqlalchemy import Boolean, Column, ForeignKeyConstraint, Index, Integer, PrimaryKeyConstraint, Table, Uuid, text

from infra.postgres.tables.base import Xid8, json_column, metadata, text_column, time_column

owners = Table(
    "owners",
    metadata,
    Column("id", Uuid, nullable=False),
    time_column("started_at"),
    time_column("expires_at"),
    Column("fenced", Boolean, nullable=False, server_default=text("false")),
    text_column("hostname"),
    Column("pid", Integer, nullable=False),
    PrimaryKeyConstraint("id"),
    postgresql_with={"fillfactor": 50},
)
"""Lives of engine processes: the lease (`expires_at`) and the fence. A fenced owner's appends change nothing."""

workflows = Table(
    "workflows",
    metadata,
    Column("id", Uuid, nullable=False),
    text_column("workspace"),
    text_column("name"),
    Column("current_version", Integer, nullable=False),
    time_column("created_at"),
    time_column("updated_at"),
    time_column("deleted_at", nullable=True),
    PrimaryKeyConstraint("id"),
)
Index(
    "workflows_live_name_key",
    workflows.c.workspace,
    workflows.c.name,
    unique=True,
    postgresql_where=workflows.c.deleted_at.is_(None),
)

workflow_versions = Table(
    "workflow_versions",
    metadata,
    Column("workflow_id", Uuid, nullable=False),
    Column("version", Integer, nullable=False),
    json_column("spec"),
    text_column("spec_hash"),
    time_column("created_at"),
    text_column("created_by"),
    PrimaryKeyConstraint("workflow_id", "version"),
    ForeignKeyConstraint(["workflow_id"], ["workflows.id"]),
)

runs = Table(
    "runs",
    metadata,
    Column("id", Uuid, nullable=False),
    text_column("workspace"),
    Column("workflow_id", Uuid, nullable=False),
    text_column("workflow"),
    Column("workflow_version", Integer, nullable=False),
    text_column("status"),
    Column("owner_id", Uuid, nullable=True),
    Column("recoveries", Integer, nullable=False, server_default=text("0")),
    json_column("input", nullable=True),
    text_column("input_ref", nullable=True),
    json_column("context"),
    json_column("pins"),
    text_column("unit_key"),
    text_column("created_by"),
    time_column("created_at"),
    time_column("finished_at", nullable=True),
    json_column("error", nullable=True),
    Column("parent_id", Uuid, nullable=True),
    PrimaryKeyConstraint("id"),
    postgresql_with={"fillfactor": 80, "autovacuum_vacuum_scale_factor": "0.02"},
)
"""One row for each run. No foreign keys: every insert would lock the workflow's row."""

Index("runs_active_owner_idx", runs.c.owner_id, postgresql_where=runs.c.finished_at.is_(None))
Index("runs_recent_idx", runs.c.workspace, runs.c.id.desc(), postgresql_where=runs.c.parent_id.is_(None))
Index("runs_parent_idx", runs.c.parent_id, runs.c.id.desc(), postgresql_where=runs.c.parent_id.is_not(None))
Index("runs_status_idx", runs.c.workspace, runs.c.status, runs.c.id.desc())
Index("runs_workflow_idx", runs.c.workspace, runs.c.workflow_id, runs.c.id.desc())

ATTEMPT_END_TYPES = "type IN ('attempt_succeeded', 'attempt_failed', 'attempt_cancelled')"
"""The events that become trace rows, as the condition of the index that the shipper follows. A query must repeat it
word for word: PostgreSQL proves that a partial index fits only from constants."""

run_events = Table(
    "run_events",
    metadata,
    Column("run_id", Uuid, nullable=False),
    Column("seq", Integer, nullable=False),
    text_column("type"),
    text_column("step_id", nullable=True),
    Column("item", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    time_column("at"),
    json_column("data"),
    json_column("payload", nullable=True),
    text_column("payload_ref", nullable=True),
    Column("tx", Xid8, nullable=False, server_default=text("pg_current_xact_id()")),
    PrimaryKeyConstraint("run_id", "seq"),
    postgresql_partition_by="RANGE (run_id)",
)
"""The journal. Run ids are UUIDv7, so a range of ids is a range of time; see `partitions`. `tx` gives an order in
which nothing appears behind a reader that stays below `pg_snapshot_xmin(pg_current_snapshot())`."""

Index(
    "run_events_follow_idx",
    run_events.c.tx,
    run_events.c.run_id,
    run_events.c.seq,
    postgresql_where=text(ATTEMPT_END_TYPES),
)

shipper_cursor = Table(
    "shipper_cursor",
    metadata,
    text_column("name"),
    Column("tx", Xid8, nullable=False),
    Column("run_id", Uuid, nullable=False),
    Column("seq", Integer, nullable=False),
    json_column("pending", nullable=True),
    time_column("updated_at"),
    PrimaryKeyConstraint("name"),
    postgresql_with={"fillfactor": 50},
)
"""How far a follower of the journal has come, and the batch that it had in hand."""
