"""Node versions, the routes between them, and the breakers of their arms."""

from sqlalchemy import Boolean, Column, Double, Index, Integer, PrimaryKeyConstraint, Table, Uuid

from infra.postgres.tables.base import json_column, metadata, text_column, time_column

node_versions = Table(
    "node_versions",
    metadata,
    text_column("workspace"),
    text_column("name"),
    text_column("version"),
    json_column("manifest"),
    json_column("binding", nullable=True),
    text_column("label", nullable=True),
    text_column("content_hash"),
    text_column("status"),
    time_column("created_at"),
    text_column("created_by"),
    time_column("updated_at"),
    PrimaryKeyConstraint("workspace", "name", "version"),
)
"""Registered node versions. Manifest and binding never change after the insert; the status does."""

routes = Table(
    "routes",
    metadata,
    text_column("workspace"),
    text_column("node"),
    Column("revision", Integer, nullable=False),
    json_column("route", nullable=True),
    Column("reverted_to", Integer, nullable=True),
    Column("current", Boolean, nullable=False),
    time_column("created_at"),
    text_column("created_by"),
    PrimaryKeyConstraint("workspace", "node", "revision"),
)
"""All revisions of all routes. A revision without a route took the route away."""

Index("routes_current_key", routes.c.workspace, routes.c.node, unique=True, postgresql_where=routes.c.current)

breakers = Table(
    "breakers",
    metadata,
    text_column("workspace"),
    text_column("node"),
    text_column("version"),
    time_column("opened_at"),
    time_column("until"),
    Column("cooldown", Double, nullable=False),
    Column("calls", Integer, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("probe", Uuid, nullable=True),
    time_column("probe_until", nullable=True),
    PrimaryKeyConstraint("workspace", "node", "version"),
    postgresql_with={"fillfactor": 50},
)
"""Open breakers; a closed one has no row. `probe` is who may make the one call, until `probe_until`."""
