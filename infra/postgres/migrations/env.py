"""Runs migrations on the connection that `infra.postgres.migration` hands over, inside its transaction."""

from alembic import context

from infra.postgres.migrations import is_ours
from infra.postgres.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    compare_type=True,
    compare_server_default=True,
    include_name=is_ours,
)
context.run_migrations()
