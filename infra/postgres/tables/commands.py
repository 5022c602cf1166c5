"""What engines tell each other, and the variables that runs share."""

from sqlalchemy import BigInteger, Column, Index, PrimaryKeyConstraint, Table, Uuid

from infra.postgres.tables.base import json_column, metadata, text_column, time_column

generations = Table(
    "generations",
    metadata,
    text_column("topic"),
    Column("generation", BigInteger, nullable=False, autoincrement=False),
    PrimaryKeyConstraint("topic"),
    postgresql_with={"fillfactor": 50},
)
"""One row for each topic that processes keep in memory; its number grows with each change, in the same transaction."""

run_commands = Table(
    "run_commands",
    metadata,
    Column("id", Uuid, nullable=False),
    Column("run_id", Uuid, nullable=False),
    json_column("command"),
    time_column("created_at"),
    time_column("done_at", nullable=True),
    json_column("refusal", nullable=True),
    PrimaryKeyConstraint("id"),
)
"""What a process wants of a run that another one drives. The owner performs it and notes how it went."""

Index("run_commands_open_idx", run_commands.c.run_id, postgresql_where=run_commands.c.done_at.is_(None))

variables = Table(
    "variables",
    metadata,
    text_column("workspace"),
    text_column("scope"),
    text_column("owner"),
    text_column("name"),
    json_column("value"),
    time_column("expires_at", nullable=True),
    time_column("updated_at"),
    text_column("updated_by"),
    PrimaryKeyConstraint("workspace", "scope", "owner", "name"),
)
"""Variables beyond a run. `owner` is empty for the workspace, else the workflow's or the session's name."""

Index("variables_expiry_idx", variables.c.expires_at)
