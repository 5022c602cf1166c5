"""Alembic's script directory. `infra.postgres.migration` runs it."""

HEAD = "0001"
"""The newest revision. Known without Alembic, so that a start with nothing to do need not load it."""
