"""Alembic's script directory. `infra.postgres.migration` runs it."""

HEAD = "0006"
"""The newest revision. Known without Alembic, so that a start with nothing to do need not load it."""


def is_ours(name: str | None, kind: str, _: object) -> bool:
    """Whether Alembic's comparison looks at a thing: everything but the journal's single partitions."""
    return kind != "table" or name is None or not name.startswith("run_events_")
