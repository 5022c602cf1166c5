"""Keys, secrets, and what was done with them."""

from sqlalchemy import Column, Index, LargeBinary, PrimaryKeyConstraint, SmallInteger, Table, UniqueConstraint, Uuid

from infra.postgres.tables.base import json_column, metadata, text_column, time_column

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Uuid, nullable=False),
    text_column("workspace"),
    text_column("name"),
    text_column("role"),
    text_column("key_hash"),
    text_column("prefix"),
    time_column("created_at"),
    text_column("created_by"),
    time_column("last_used_at", nullable=True),
    time_column("revoked_at", nullable=True),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("key_hash"),
)
Index("api_keys_recent_idx", api_keys.c.workspace, api_keys.c.id.desc())

secrets = Table(
    "secrets",
    metadata,
    text_column("workspace"),
    text_column("name"),
    Column("ciphertext", LargeBinary, nullable=False),
    text_column("key_id"),
    time_column("created_at"),
    time_column("updated_at"),
    text_column("updated_by"),
    PrimaryKeyConstraint("workspace", "name"),
)

idempotency = Table(
    "idempotency",
    metadata,
    text_column("workspace"),
    text_column("key"),
    text_column("method_path"),
    text_column("body_hash"),
    Column("resource_id", Uuid, nullable=False),
    Column("status", SmallInteger, nullable=True),
    json_column("response", nullable=True),
    time_column("created_at"),
    time_column("expires_at"),
    PrimaryKeyConstraint("workspace", "key"),
    postgresql_with={"fillfactor": 80},
)
Index("idempotency_expiry_idx", idempotency.c.expires_at)

audit_log = Table(
    "audit_log",
    metadata,
    Column("id", Uuid, nullable=False),
    text_column("workspace"),
    time_column("at"),
    text_column("actor"),
    text_column("action"),
    text_column("target"),
    json_column("detail"),
    PrimaryKeyConstraint("id"),
)
"""Append-only: a trigger refuses every change."""

Index("audit_log_recent_idx", audit_log.c.workspace, audit_log.c.id.desc())
