"""The tables. Migrations build them; `migrations` and this page are held together by a test.

JSON columns are `json`, not `jsonb`: the text stays as it was written, and `\\u0000` is allowed.
"""

from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    DateTime,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSON
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.types import UserDefinedType


class Xid8(UserDefinedType[int]):
    """A 64-bit transaction id, PostgreSQL's `xid8`."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        """The type's name in DDL."""
        return "xid8"


ischema_names["xid8"] = Xid8  # lets reflection, and so the comparison with the migrations, know the type

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
    }
)


def _time(name: str, *, nullable: bool = False) -> Column[Any]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


def _text(name: str, *, nullable: bool = False) -> Column[Any]:
    return Column(name, Text, nullable=nullable)


def _json(name: str, *, nullable: bool = False) -> Column[Any]:
    return Column(name, JSON(none_as_null=True), nullable=nullable)


owners = Table(
    "owners",
    metadata,
    Column("id", Uuid, nullable=False),
    _time("started_at"),
    _time("expires_at"),
    Column("fenced", Boolean, nullable=False, server_default=text("false")),
    _text("hostname"),
    Column("pid", Integer, nullable=False),
    PrimaryKeyConstraint("id"),
    postgresql_with={"fillfactor": 50},
)
"""Lives of engine processes: the lease (`expires_at`) and the fence. A fenced owner's appends change nothing."""

workflows = Table(
    "workflows",
    metadata,
    Column("id", Uuid, nullable=False),
    _text("workspace"),
    _text("name"),
    Column("current_version", Integer, nullable=False),
    _time("created_at"),
    _time("updated_at"),
    _time("deleted_at", nullable=True),
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
    _json("spec"),
    _text("spec_hash"),
    _time("created_at"),
    _text("created_by"),
    PrimaryKeyConstraint("workflow_id", "version"),
    ForeignKeyConstraint(["workflow_id"], ["workflows.id"]),
)

runs = Table(
    "runs",
    metadata,
    Column("id", Uuid, nullable=False),
    _text("workspace"),
    Column("workflow_id", Uuid, nullable=False),
    _text("workflow"),
    Column("workflow_version", Integer, nullable=False),
    _text("status"),
    Column("owner_id", Uuid, nullable=True),
    Column("recoveries", Integer, nullable=False, server_default=text("0")),
    _json("input", nullable=True),
    _text("input_ref", nullable=True),
    _json("context"),
    _json("pins"),
    _text("unit_key"),
    _text("created_by"),
    _time("created_at"),
    _time("finished_at", nullable=True),
    _json("error", nullable=True),
    PrimaryKeyConstraint("id"),
    postgresql_with={"fillfactor": 80, "autovacuum_vacuum_scale_factor": "0.02"},
)
"""One row for each run. No foreign keys: every insert would lock the workflow's row."""

Index("runs_active_owner_idx", runs.c.owner_id, postgresql_where=runs.c.finished_at.is_(None))
Index("runs_recent_idx", runs.c.workspace, runs.c.id.desc())
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
    _text("type"),
    _text("step_id", nullable=True),
    Column("item", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    _time("at"),
    _json("data"),
    _json("payload", nullable=True),
    _text("payload_ref", nullable=True),
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
    _text("name"),
    Column("tx", Xid8, nullable=False),
    Column("run_id", Uuid, nullable=False),
    Column("seq", Integer, nullable=False),
    _json("pending", nullable=True),
    _time("updated_at"),
    PrimaryKeyConstraint("name"),
    postgresql_with={"fillfactor": 50},
)
"""How far a follower of the journal has come, and the batch that it had in hand."""

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Uuid, nullable=False),
    _text("workspace"),
    _text("name"),
    _text("role"),
    _text("key_hash"),
    _text("prefix"),
    _time("created_at"),
    _text("created_by"),
    _time("last_used_at", nullable=True),
    _time("revoked_at", nullable=True),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("key_hash"),
)
Index("api_keys_recent_idx", api_keys.c.workspace, api_keys.c.id.desc())

secrets = Table(
    "secrets",
    metadata,
    _text("workspace"),
    _text("name"),
    Column("ciphertext", LargeBinary, nullable=False),
    _text("key_id"),
    _time("created_at"),
    _time("updated_at"),
    _text("updated_by"),
    PrimaryKeyConstraint("workspace", "name"),
)

idempotency = Table(
    "idempotency",
    metadata,
    _text("workspace"),
    _text("key"),
    _text("method_path"),
    _text("body_hash"),
    Column("resource_id", Uuid, nullable=False),
    Column("status", SmallInteger, nullable=True),
    _json("response", nullable=True),
    _time("created_at"),
    _time("expires_at"),
    PrimaryKeyConstraint("workspace", "key"),
    postgresql_with={"fillfactor": 80},
)
Index("idempotency_expiry_idx", idempotency.c.expires_at)

audit_log = Table(
    "audit_log",
    metadata,
    Column("id", Uuid, nullable=False),
    _text("workspace"),
    _time("at"),
    _text("actor"),
    _text("action"),
    _text("target"),
    _json("detail"),
    PrimaryKeyConstraint("id"),
)
"""Append-only: a trigger refuses every change."""

Index("audit_log_recent_idx", audit_log.c.workspace, audit_log.c.id.desc())

node_versions = Table(
    "node_versions",
    metadata,
    _text("workspace"),
    _text("name"),
    _text("version"),
    _json("manifest"),
    _json("binding", nullable=True),
    _text("label", nullable=True),
    _text("content_hash"),
    _text("status"),
    _time("created_at"),
    _text("created_by"),
    _time("updated_at"),
    PrimaryKeyConstraint("workspace", "name", "version"),
)
"""Registered node versions. Manifest and binding never change after the insert; the status does."""
