"""Attempts that worker processes perform, and the workers."""

from sqlalchemy import Column, Double, Index, Integer, PrimaryKeyConstraint, SmallInteger, Table, Text, Uuid, text
from sqlalchemy.dialects.postgresql import ARRAY

from infra.postgres.tables.base import json_column, metadata, text_column, time_column

OPEN = "status IN ('queued', 'claimed')"
ENDED = "status IN ('done', 'lost', 'cancelled')"
"""Conditions of the partial indexes; a query must repeat them word for word."""

tasks = Table(
    "tasks",
    metadata,
    Column("id", Uuid, nullable=False),
    Column("run_id", Uuid, nullable=False),
    text_column("step_id"),
    Column("item", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    text_column("workspace"),
    text_column("group_name"),
    text_column("node"),
    text_column("node_version"),
    text_column("effect"),
    json_column("parameters", nullable=True),
    text_column("parameters_ref", nullable=True),
    json_column("secret_names"),
    json_column("context"),
    Column("timeout", Double, nullable=False),
    Column("priority", SmallInteger, nullable=False),
    text_column("status"),
    Column("waiter", Uuid, nullable=False),
    Column("claimed_by", Uuid, nullable=True),
    time_column("lease_until", nullable=True),
    Column("claims", Integer, nullable=False, server_default=text("0")),
    time_column("created_at"),
    Column("published", Integer, nullable=False, server_default=text("1")),
    time_column("publish_at"),
    json_column("outcome", nullable=True),
    json_column("output", nullable=True),
    text_column("output_ref", nullable=True),
    time_column("finished_at", nullable=True),
    PrimaryKeyConstraint("id"),
    postgresql_with={"fillfactor": 70, "autovacuum_vacuum_scale_factor": "0.02"},
)
"""One row for each attempt that was handed to workers, until the journal has its end. The id is made from run, step,
item and attempt, so the same attempt is the same task. `waiter` is the process that waits for it; `publish_at` is when
it gets another message if nobody has claimed it by then."""

Index("tasks_open_idx", tasks.c.group_name, tasks.c.publish_at, postgresql_where=text(OPEN))
Index("tasks_lease_idx", tasks.c.lease_until, postgresql_where=text("status = 'claimed'"))
Index("tasks_ended_idx", tasks.c.waiter, postgresql_where=text(ENDED))
Index("tasks_run_idx", tasks.c.run_id)

workers = Table(
    "workers",
    metadata,
    Column("id", Uuid, nullable=False),
    Column("groups", ARRAY(Text), nullable=False),
    text_column("hostname"),
    Column("pid", Integer, nullable=False),
    Column("concurrency", Integer, nullable=False),
    Column("running", Integer, nullable=False),
    time_column("started_at"),
    time_column("expires_at"),
    PrimaryKeyConstraint("id"),
    postgresql_with={"fillfactor": 50},
)
"""Lives of worker processes. One whose `expires_at` has passed is dead, or as good as that."""
