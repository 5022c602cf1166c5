"""Limits, the slots that they give out, and cached results."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Uuid,
    text,
)

from infra.postgres.tables.base import json_column, metadata, text_column, time_column

limit_scopes = Table(
    "limit_scopes",
    metadata,
    text_column("scope"),
    Column("max", Integer, nullable=True),
    Column("calls", Integer, nullable=True),
    Column("per", Double, nullable=True),
    Column("burst", Integer, nullable=True),
    Column("managed", Boolean, nullable=False, server_default=text("false")),
    Column("tokens", Double, nullable=False),
    time_column("refilled_at"),
    Column("grants", BigInteger, nullable=False),
    Column("turn", BigInteger, nullable=False, server_default=text("0")),
    PrimaryKeyConstraint("scope"),
    postgresql_with={"fillfactor": 50},
)
"""What is limited, and how. Its row lock guards all slots of the scope. `managed`: the numbers were set on the server,
so those that come with a request count for nothing. `grants` numbers the grants in the order of their commits; `turn`
is how far the queue has come, for fairness between workflows."""

slots = Table(
    "slots",
    metadata,
    text_column("scope"),
    text_column("holder"),
    Column("run_id", Uuid, nullable=False),
    Column("owner_id", Uuid, nullable=False),
    Column("priority", SmallInteger, nullable=False),
    text_column("workflow"),
    Column("turn", BigInteger, nullable=False),
    time_column("asked_at"),
    time_column("granted_at", nullable=True),
    Column("grant_no", BigInteger, nullable=True),
    PrimaryKeyConstraint("scope", "holder"),
    postgresql_with={"fillfactor": 70, "autovacuum_vacuum_scale_factor": "0.02"},
)
"""Who holds a place in a scope, and who waits for one (`granted_at` is NULL)."""

Index(
    "slots_waiting_idx",
    slots.c.scope,
    slots.c.workflow,
    slots.c.priority.desc(),
    slots.c.asked_at,
    postgresql_where=slots.c.granted_at.is_(None),
)
Index("slots_granted_idx", slots.c.scope, slots.c.grant_no, postgresql_where=slots.c.granted_at.is_not(None))
Index("slots_turn_idx", slots.c.scope, slots.c.workflow, slots.c.turn)
Index("slots_run_idx", slots.c.run_id)

node_limits = Table(
    "node_limits",
    metadata,
    text_column("workspace"),
    text_column("node"),
    Column("concurrency", Integer, nullable=True),
    Column("calls", Integer, nullable=True),
    Column("per", Double, nullable=True),
    Column("burst", Integer, nullable=True),
    time_column("updated_at"),
    text_column("updated_by"),
    PrimaryKeyConstraint("workspace", "node"),
)
"""Limits of nodes, over all workflows of a workspace."""

step_cache = Table(
    "step_cache",
    metadata,
    text_column("workspace"),
    text_column("key"),
    text_column("node"),
    text_column("node_version"),
    text_column("workflow"),
    text_column("step_id"),
    Column("run_id", Uuid, nullable=False),
    json_column("output", nullable=True),
    text_column("output_ref", nullable=True),
    Column("size", Integer, nullable=False),
    time_column("created_at"),
    time_column("expires_at"),
    PrimaryKeyConstraint("workspace", "key"),
)
"""Results that are used again. `key` is a hash: no parameter stands here. `workflow`, `step_id` and `run_id` tell who
stored it."""

Index("step_cache_expiry_idx", step_cache.c.expires_at)

step_flights = Table(
    "step_flights",
    metadata,
    text_column("workspace"),
    text_column("key"),
    text_column("holder"),
    Column("run_id", Uuid, nullable=False),
    Column("owner_id", Uuid, nullable=False),
    text_column("node"),
    text_column("workflow"),
    text_column("step_id"),
    time_column("started_at"),
    PrimaryKeyConstraint("workspace", "key"),
)
"""Calls under way whose result will be cached: equal calls wait for them."""
