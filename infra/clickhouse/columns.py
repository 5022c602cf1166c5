"""Trace rows turned into Arrow columns: one pass for each column, because a pass for each row is three times slower."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from core.trace import TraceRow
from infra.clickhouse.arrow import Array, Table, pa

_STRING = pa.string()
_MAP_NUMBERS = pa.map_(pa.string(), pa.float64())
_MAP_TEXTS = pa.map_(pa.string(), pa.string())

SCHEMA = pa.schema(
    [
        ("attempt_id", pa.binary(16)),
        ("workspace", _STRING),
        ("run_id", _STRING),
        ("workflow", _STRING),
        ("workflow_version", pa.uint32()),
        ("step_id", _STRING),
        ("item", pa.int32()),
        ("attempt", pa.uint32()),
        ("node", _STRING),
        ("node_version", _STRING),
        ("status", _STRING),
        ("start", pa.timestamp("us", tz="UTC")),
        ("latency_ms", pa.float64()),
        ("arm", _STRING),
        ("arm_probability", pa.float64()),
        ("route_revision", pa.uint64()),
        ("assigned_arm", _STRING),
        ("served_by", _STRING),
        ("breaker", _STRING),
        ("rollout", _STRING),
        ("stage", _STRING),
        ("error_class", _STRING),
        ("error_message", _STRING),
        ("error_fingerprint", _STRING),
        ("queue_ms", pa.float64()),
        ("cache_hit", pa.bool_()),
        ("inputs_hash", _STRING),
        ("cost_usd", pa.float64()),
        ("tokens_in", pa.uint64()),
        ("tokens_out", pa.uint64()),
        ("metrics", _MAP_NUMBERS),
        ("numbers", _MAP_NUMBERS),
        ("texts", _MAP_TEXTS),
        ("context", _MAP_TEXTS),
    ]
)
"""The columns of the `traces` table that a writer gives, in the order of `TraceRow`."""

_PLAIN = [field.name for field in SCHEMA if not pa.types.is_map(field.type) and field.name != "attempt_id"]
_MAPS = [field.name for field in SCHEMA if pa.types.is_map(field.type)]


def map_array(maps: Sequence[dict[str, Any]], kind: Any) -> Array:
    """One Arrow map column from one dict for each row."""
    return pa.MapArray.from_arrays(
        pa.array(list(accumulate(map(len, maps), initial=0)), pa.int32()),
        pa.array([key for one in maps for key in one], kind.key_type),
        pa.array([value for one in maps for value in one.values()], kind.item_type),
    )


def table_of(rows: Sequence[TraceRow]) -> Table:
    """An Arrow table with the columns of `SCHEMA`.

    Raises:
        pyarrow.ArrowInvalid: a value does not fit its column (a negative count, a text that is not UTF-8).
    """
    columns: dict[str, pa.Array] = {"attempt_id": pa.array([row.attempt_id.bytes for row in rows], pa.binary(16))}
    for name in _PLAIN:
        columns[name] = pa.array([getattr(row, name) for row in rows], SCHEMA.field(name).type)
    for name in _MAPS:
        columns[name] = map_array([getattr(row, name) for row in rows], SCHEMA.field(name).type)
    return pa.Table.from_arrays([columns[name] for name in SCHEMA.names], schema=SCHEMA)
