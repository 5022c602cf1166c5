"""What traces say in figures, computed by ClickHouse over one workspace and one window."""

# SQL is put together from constants of this module alone; every value is a bound parameter.
# ruff: noqa: S608

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from core.insight import (
    Cost,
    CostSplit,
    FailureGroup,
    InsightFilter,
    Latency,
    LatencyBucket,
    LatencySplit,
    Reliability,
    ReliabilityBucket,
    ReliabilityHour,
    Trend,
    TrendSide,
    Window,
)
from infra.clickhouse.traces import TraceStore

_MAX_BUCKETS = 2000

_IN_WINDOW = "start >= {start:DateTime64(6, 'UTC')} AND start < {end:DateTime64(6, 'UTC')}"

_FINISHED = "status != 'cancelled'"
"""A cancelled attempt says nothing about the node: somebody else ended it."""

_FAILED = "status IN ('error', 'timeout')"

_BUCKET = "toStartOfInterval(start, toIntervalSecond({bucket:UInt32}), 'UTC')"

# Quantiles by t-digest: an exact one keeps every value, and at these sizes the difference is below a percent.
_RELIABILITY = f"""
    count() AS attempts, countIf(status = 'ok') AS oks, countIf(status = 'error') AS errors,
    countIf(status = 'timeout') AS timeouts,
    if(countIf({_FINISHED}) = 0, NULL, countIf({_FAILED}) / countIf({_FINISHED})) AS error_rate,
    ifNotFinite(quantilesTDigestIf(0.5, 0.95)(latency_ms, {_FINISHED})[1], 0) AS p50,
    ifNotFinite(quantilesTDigestIf(0.5, 0.95)(latency_ms, {_FINISHED})[2], 0) AS p95"""

_LATENCY = """
    count() AS n, avg(latency_ms) AS mean, quantilesTDigest(0.5, 0.9, 0.95, 0.99)(latency_ms) AS q"""

_SPLITS = {
    LatencySplit.NODE: ("NULL", "NULL"),
    LatencySplit.VERSION: ("node_version", "NULL"),
    LatencySplit.ARM: ("NULL", "arm"),
}
_COST_SPLITS = {
    CostSplit.NODE: ("node", "NULL", "NULL"),
    CostSplit.ARM: ("node", "arm", "NULL"),
    CostSplit.WORKFLOW: ("NULL", "NULL", "workflow"),
}


class Insights:
    """The figures of a window; every call takes at most `limit` rows, the most important first.

    Raises (every call):
        Unavailable: ClickHouse does not answer.
    """

    def __init__(self, store: TraceStore) -> None:
        self._store = store

    async def reliability(
        self, wanted: InsightFilter, bucket: timedelta | None = None, limit: int = 20_000
    ) -> tuple[ReliabilityBucket, ...]:
        """Each node over time, oldest first. Without `bucket` it is an hour, or longer when the window is."""
        rows = await self._rows(
            f"SELECT node, {_BUCKET} AS at, {_RELIABILITY} FROM traces WHERE {_scope(wanted)}"
            " GROUP BY node, at ORDER BY at, node LIMIT {limit:UInt32}",
            wanted,
            bucket=_seconds(wanted.window, bucket),
            limit=limit,
        )
        return tuple(
            ReliabilityBucket(node=node, bucket=at, **_reliability(rest).model_dump()) for node, at, *rest in rows
        )

    async def reliability_by_hour(self, wanted: InsightFilter, limit: int = 20_000) -> tuple[ReliabilityHour, ...]:
        """Each node by the hour of the day in UTC, for a heat map."""
        rows = await self._rows(
            f"SELECT node, toHour(start, 'UTC') AS hour, {_RELIABILITY} FROM traces WHERE {_scope(wanted)}"
            " GROUP BY node, hour ORDER BY node, hour LIMIT {limit:UInt32}",
            wanted,
            limit=limit,
        )
        return tuple(
            ReliabilityHour(node=node, hour=hour, **_reliability(rest).model_dump()) for node, hour, *rest in rows
        )

    async def failures(self, wanted: InsightFilter, limit: int = 50) -> tuple[FailureGroup, ...]:
        """Failures by what they look like, the most frequent first."""
        rows = await self._rows(
            "SELECT error_fingerprint, node, any(error_class), count() AS n,"
            " n / sum(n) OVER () AS share, argMax(error_message, start), min(start), max(start),"
            # The newest 20 attempts are enough for five runs, unless a run fails over and over.
            " arrayMap(one -> one.2, groupArraySorted(20)((-toUnixTimestamp64Micro(start), run_id))) AS runs"
            f" FROM traces WHERE {_scope(wanted)} AND {_FAILED}"
            " GROUP BY error_fingerprint, node ORDER BY n DESC, error_fingerprint, node LIMIT {limit:UInt32}",
            wanted,
            limit=limit,
        )
        return tuple(
            FailureGroup(
                fingerprint=fingerprint,
                node=node,
                error_class=error_class,
                count=count,
                share=share,
                sample_message=message,
                first_seen=first,
                last_seen=last,
                sample_runs=tuple(dict.fromkeys(runs))[:5],
            )
            for fingerprint, node, error_class, count, share, message, first, last, runs in rows
        )

    async def latency(
        self, wanted: InsightFilter, split: LatencySplit = LatencySplit.NODE, limit: int = 500
    ) -> tuple[Latency, ...]:
        """Latencies of each node (and version or arm), the slowest p95 first."""
        version, arm = _SPLITS[split]
        rows = await self._rows(
            f"SELECT node, {version} AS v, {arm} AS a, {_LATENCY} FROM traces WHERE {_scope(wanted)} AND {_FINISHED}"
            " GROUP BY node, v, a ORDER BY q[3] DESC, node, v, a LIMIT {limit:UInt32}",
            wanted,
            limit=limit,
        )
        return tuple(_latency(row) for row in rows)

    async def latency_series(
        self,
        wanted: InsightFilter,
        split: LatencySplit = LatencySplit.NODE,
        bucket: timedelta | None = None,
        limit: int = 20_000,
    ) -> tuple[LatencyBucket, ...]:
        """The same over time, oldest first."""
        version, arm = _SPLITS[split]
        rows = await self._rows(
            f"SELECT {_BUCKET} AS at, node, {version} AS v, {arm} AS a, {_LATENCY} FROM traces"
            f" WHERE {_scope(wanted)} AND {_FINISHED}"
            " GROUP BY at, node, v, a ORDER BY at, node, v, a LIMIT {limit:UInt32}",
            wanted,
            bucket=_seconds(wanted.window, bucket),
            limit=limit,
        )
        return tuple(LatencyBucket(bucket=at, **_latency(rest).model_dump()) for at, *rest in rows)

    async def cost(
        self, wanted: InsightFilter, split: CostSplit = CostSplit.NODE, limit: int = 500
    ) -> tuple[Cost, ...]:
        """What attempts cost, the dearest first; failed attempts cost too."""
        node, arm, workflow = _COST_SPLITS[split]
        rows = await self._rows(
            f"SELECT {node} AS n, {arm} AS a, {workflow} AS w, count() AS attempts, countIf(status = 'ok') AS oks,"
            " sum(cost_usd) AS total, sum(tokens_in), sum(tokens_out)"
            f" FROM traces WHERE {_scope(wanted)}"
            " GROUP BY n, a, w ORDER BY total DESC, n, a, w LIMIT {limit:UInt32}",
            wanted,
            limit=limit,
        )
        return tuple(
            Cost(
                node=node,
                arm=arm,
                workflow=workflow,
                attempts=attempts,
                successes=oks,
                total_usd=total,
                per_attempt_usd=total / attempts,
                per_success_usd=total / oks if oks else None,
                tokens_in=tokens_in,
                tokens_out=tokens_out,
            )
            for node, arm, workflow, attempts, oks, total, tokens_in, tokens_out in rows
        )

    async def trends(self, wanted: InsightFilter, limit: int = 200) -> tuple[Trend, ...]:
        """Each node in this window against the equal one before, the busiest node first."""
        before = wanted.window.previous()
        both = wanted.model_copy(update={"window": Window(start=before.start, end=wanted.window.end)})

        def side(condition: str) -> str:
            return (
                f"countIf({condition}), countIf({condition} AND {_FINISHED}), countIf({condition} AND {_FAILED}),"
                f" countIf({condition} AND status = 'ok'), sumIf(cost_usd, {condition}),"
                f" ifNotFinite(quantileTDigestIf(0.95)(latency_ms, {condition} AND {_FINISHED}), 0)"
            )

        now = "start >= {middle:DateTime64(6, 'UTC')}"
        earlier = "start < {middle:DateTime64(6, 'UTC')}"
        rows = await self._rows(
            f"SELECT node, {side(now)}, {side(earlier)} FROM traces WHERE {_scope(wanted)}"
            " GROUP BY node ORDER BY count() DESC, node LIMIT {limit:UInt32}",
            both,
            middle=wanted.window.start,
            limit=limit,
        )
        return tuple(Trend(node=node, current=_side(rest[:6]), previous=_side(rest[6:])) for node, *rest in rows)

    async def _rows(self, sql: str, wanted: InsightFilter, **parameters: Any) -> Sequence[Sequence[Any]]:
        parameters |= {"workspace": wanted.workspace, "start": wanted.window.start, "end": wanted.window.end}
        if wanted.node is not None:
            parameters["node"] = wanted.node
        if wanted.workflow is not None:
            parameters["workflow"] = wanted.workflow
        rows: Sequence[Sequence[Any]] = await self._store.read(
            lambda client: client.query(sql, parameters=parameters).result_rows
        )
        return rows


def _scope(wanted: InsightFilter) -> str:
    conditions = ["workspace = {workspace:String}", _IN_WINDOW]
    if wanted.node is not None:
        conditions.append("node = {node:String}")
    if wanted.workflow is not None:
        conditions.append("workflow = {workflow:String}")
    return " AND ".join(conditions)


def _seconds(window: Window, bucket: timedelta | None) -> int:
    """The bucket's length: what was asked, an hour at first, and never so short that the window has too many."""
    wanted = bucket.total_seconds() if bucket is not None else 3600
    return max(1, int(wanted), int(window.length.total_seconds() / _MAX_BUCKETS) + 1)


def _reliability(values: Sequence[Any]) -> Reliability:
    attempts, oks, errors, timeouts, error_rate, p50, p95 = values
    return Reliability(
        attempts=attempts,
        ok=oks,
        errors=errors,
        timeouts=timeouts,
        error_rate=error_rate,
        p50_ms=p50,
        p95_ms=p95,
    )


def _latency(values: Sequence[Any]) -> Latency:
    node, version, arm, count, mean, quantiles = values
    p50, p90, p95, p99 = quantiles
    return Latency(
        node=node,
        node_version=version,
        arm=arm,
        count=count,
        mean_ms=mean,
        p50_ms=p50,
        p90_ms=p90,
        p95_ms=p95,
        p99_ms=p99,
    )


def _side(values: Sequence[Any]) -> TrendSide:
    attempts, finished, failed, oks, cost, p95 = values
    return TrendSide(
        attempts=attempts,
        error_rate=failed / finished if finished else None,
        p95_ms=p95 if finished else None,
        cost_per_success_usd=cost / oks if oks else None,
    )
