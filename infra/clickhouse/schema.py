"""The tables in ClickHouse, as numbered statements that are applied in order and recorded.

A statement that has been released is never changed; a change is a new number. Each can be repeated without effect: a
crash between a statement and its record makes it run again, and so do two processes that start together.
"""

from clickhouse_connect.driver.client import Client

from core.errors import Conflict

_VERSIONS_TABLE = """
CREATE TABLE IF NOT EXISTS schema_versions (
    version UInt32,
    applied_at DateTime64(3, 'UTC') DEFAULT now64(3)
) ENGINE = MergeTree ORDER BY version
"""

# Partitions are months: an import of two years of history then makes 24 parts for each insert, where days
# would make 730. The sorting key serves "one workspace, one node, one window", which is what every insight and scan
# asks; a window over all nodes is pruned by month and by the smallest and largest `start` of each part.
# `non_replicated_deduplication_window` makes a repeated insert with the same token a no-op: the last 10,000 inserted
# parts are remembered, far more than a shipper can have in doubt.
_V1 = """
CREATE TABLE IF NOT EXISTS traces (
    attempt_id UUID,
    workspace LowCardinality(String),
    run_id String CODEC(ZSTD(1)),
    workflow LowCardinality(String),
    workflow_version UInt32 CODEC(ZSTD(1)),
    step_id LowCardinality(String),
    item Int32 CODEC(ZSTD(1)),
    attempt UInt32 CODEC(ZSTD(1)),
    node LowCardinality(String),
    node_version LowCardinality(String),
    status LowCardinality(String),
    start DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    latency_ms Float64 CODEC(ZSTD(1)),
    arm LowCardinality(String),
    arm_probability Float64 CODEC(ZSTD(1)),
    route_revision UInt64 CODEC(ZSTD(1)),
    rollout LowCardinality(String),
    stage LowCardinality(String),
    error_class LowCardinality(String),
    error_message String CODEC(ZSTD(1)),
    error_fingerprint LowCardinality(String),
    queue_ms Float64 CODEC(ZSTD(1)),
    cache_hit Bool CODEC(ZSTD(1)),
    inputs_hash String CODEC(ZSTD(1)),
    cost_usd Float64 CODEC(ZSTD(1)),
    tokens_in UInt64 CODEC(ZSTD(1)),
    tokens_out UInt64 CODEC(ZSTD(1)),
    metrics Map(LowCardinality(String), Float64) CODEC(ZSTD(1)),
    numbers Map(LowCardinality(String), Float64) CODEC(ZSTD(1)),
    texts Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    context Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    ingested_at DateTime64(3, 'UTC') DEFAULT now64(3) CODEC(Delta, ZSTD(1))
) ENGINE = MergeTree
PARTITION BY toYYYYMM(start)
ORDER BY (workspace, node, start)
SETTINGS non_replicated_deduplication_window = 10000
"""

# The page of one run and the look-up of stored attempts ask for ids, which the sorting key does not know.
_V2 = "ALTER TABLE traces ADD INDEX IF NOT EXISTS by_run run_id TYPE bloom_filter(0.01) GRANULARITY 1"
_V3 = "ALTER TABLE traces ADD INDEX IF NOT EXISTS by_attempt attempt_id TYPE bloom_filter(0.01) GRANULARITY 1"

# One statement, so that it is there or not there.
_V4 = (
    "ALTER TABLE traces ADD COLUMN IF NOT EXISTS assigned_arm LowCardinality(String),"
    " ADD COLUMN IF NOT EXISTS served_by LowCardinality(String),"
    " ADD COLUMN IF NOT EXISTS breaker LowCardinality(String)"
)

STATEMENTS: tuple[str, ...] = (_V1, _V2, _V3, _V4)
"""V1 first."""


def applied_version(client: Client) -> int:
    """The highest statement that this database has, 0 when it is empty."""
    if not client.query("EXISTS TABLE schema_versions").result_rows[0][0]:
        return 0
    return int(client.query("SELECT max(version) FROM schema_versions").result_rows[0][0])


def apply_schema(client: Client, retention_days: int | None, statements: tuple[str, ...] = STATEMENTS) -> int:
    """Bring the database up to date and return its version.

    Args:
        retention_days: rows vanish this many days after they were stored (not after their attempt began: an import of
            old history would vanish at once). None keeps them for ever.

    Raises:
        Conflict: a newer program has been here; going on could lose what it wrote.
    """
    version = applied_version(client)
    if version > len(statements):
        raise Conflict(f"the trace store has schema V{version}, newer than this program's V{len(statements)}")
    client.command(_VERSIONS_TABLE)
    for number in range(version + 1, len(statements) + 1):
        client.command(statements[number - 1])
        client.command("INSERT INTO schema_versions (version) VALUES ({number:UInt32})", parameters={"number": number})
    _apply_retention(client, retention_days)
    return len(statements)


def _apply_retention(client: Client, days: int | None) -> None:
    rows = client.query(
        "SELECT create_table_query FROM system.tables WHERE database = currentDatabase() AND name = 'traces'"
    ).result_rows
    present = str(rows[0][0])
    if days is None:
        if " TTL " in present:
            client.command("ALTER TABLE traces REMOVE TTL")
    elif f"toIntervalDay({days:d})" not in present:
        # Parts that exist already get the new span when they are next merged; rewriting them all now could take hours.
        client.command(
            f"ALTER TABLE traces MODIFY TTL toDateTime(ingested_at) + toIntervalDay({days:d})",
            settings={"materialize_ttl_after_modify": 0},
        )
