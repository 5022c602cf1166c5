"""Triggers, what they fired, and events."""

from sqlalchemy import Boolean, Column, Index, PrimaryKeyConstraint, Table, UniqueConstraint, Uuid

from infra.postgres.tables.base import json_column, metadata, text_column, time_column

triggers = Table(
    "triggers",
    metadata,
    Column("id", Uuid, nullable=False),
    text_column("workspace"),
    Column("workflow_id", Uuid, nullable=False),
    text_column("name"),
    text_column("kind"),
    json_column("config"),
    Column("from_spec", Boolean, nullable=False),
    text_column("path", nullable=True),
    text_column("event", nullable=True),
    Column("paused", Boolean, nullable=False),
    time_column("next_at", nullable=True),
    time_column("created_at"),
    time_column("updated_at"),
    time_column("deleted_at", nullable=True),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("workflow_id", "name"),
    postgresql_with={"fillfactor": 80},
)
"""One row for each name that a workflow ever had a trigger under. `path` is a webhook's, `event` an event's name;
`next_at` is when a cron trigger fires next, NULL while it is paused."""

Index(
    "triggers_live_path_key",
    triggers.c.workspace,
    triggers.c.path,
    unique=True,
    postgresql_where=triggers.c.deleted_at.is_(None),
)
Index("triggers_path_idx", triggers.c.path, postgresql_where=triggers.c.deleted_at.is_(None))
Index("triggers_event_idx", triggers.c.workspace, triggers.c.event, postgresql_where=triggers.c.deleted_at.is_(None))
Index("triggers_due_idx", triggers.c.next_at, postgresql_where=triggers.c.deleted_at.is_(None))
Index("triggers_recent_idx", triggers.c.workspace, triggers.c.id.desc())

firings = Table(
    "firings",
    metadata,
    Column("id", Uuid, nullable=False),
    Column("trigger_id", Uuid, nullable=False),
    text_column("workspace"),
    Column("workflow_id", Uuid, nullable=False),
    text_column("key"),
    Column("run_id", Uuid, nullable=True),
    text_column("status"),
    json_column("input", nullable=True),
    json_column("context", nullable=True),
    text_column("unit_key"),
    text_column("created_by"),
    time_column("scheduled_for", nullable=True),
    text_column("reason", nullable=True),
    time_column("at"),
    time_column("touched_at"),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("trigger_id", "key"),
    postgresql_with={"fillfactor": 80},
)
"""What triggers fired. The unique key is what makes a firing happen once; `touched_at` is when a process last took it
on itself to start the run of a reserved one."""

Index("firings_history_idx", firings.c.trigger_id, firings.c.id.desc())
Index("firings_reserved_idx", firings.c.touched_at, postgresql_where=firings.c.status == "reserved")
Index("firings_at_idx", firings.c.at)

events = Table(
    "events",
    metadata,
    Column("id", Uuid, nullable=False),
    text_column("workspace"),
    text_column("name"),
    json_column("payload", nullable=True),
    text_column("dedupe_key", nullable=True),
    time_column("received_at"),
    text_column("created_by"),
    time_column("dispatched_at", nullable=True),
    PrimaryKeyConstraint("id"),
    postgresql_with={"fillfactor": 90},
)
"""What was sent to `/events`. `dispatched_at` is when the triggers were matched with it."""

Index("events_recent_idx", events.c.workspace, events.c.id.desc())
Index("events_name_idx", events.c.workspace, events.c.name, events.c.id.desc())
Index(
    "events_dedupe_idx",
    events.c.workspace,
    events.c.name,
    events.c.dedupe_key,
    events.c.received_at,
    postgresql_where=events.c.dedupe_key.is_not(None),
)
Index("events_undispatched_idx", events.c.received_at, postgresql_where=events.c.dispatched_at.is_(None))
