"""Figures against the same figures computed by hand in Python."""

import statistics
from datetime import timedelta

import pytest

from core.insight import CostSplit, InsightFilter, LatencySplit, Window
from core.trace import TraceRow, TraceStatus
from infra.clickhouse.insights import Insights
from infra.clickhouse.traces import TraceStore
from tests.infra.clickhouse.rows import BASE, row

DAY = BASE.replace(hour=0, minute=0, second=0, microsecond=0)
STATUSES = [TraceStatus.OK] * 6 + [TraceStatus.ERROR, TraceStatus.ERROR, TraceStatus.TIMEOUT, TraceStatus.CANCELLED]


def traces(workspace: str) -> list[TraceRow]:
    """Two nodes, 400 attempts over two days, and as many on the two days before, which are twice as slow."""
    rows = []
    for i in range(800):
        before = i >= 400
        status = STATUSES[i % 10]
        failed = status in (TraceStatus.ERROR, TraceStatus.TIMEOUT)
        rows.append(
            row(
                workspace,
                i,
                start=DAY + timedelta(minutes=7 * (i % 400)) - timedelta(days=2 if before else 0),
                node="slow" if i % 4 == 0 else "fast",
                arm="a" if i % 3 else "b",
                workflow="w1" if i % 2 else "w2",
                status=status,
                latency_ms=(i % 100 + 1) * (2.0 if before else 1.0),
                error_class="network" if failed else "",
                error_message=f"failure {i}" if failed else "",
                error_fingerprint=f"f{i % 10}" if failed else "",
                cost_usd=0.5,
                tokens_in=10,
                tokens_out=i % 7,
            )
        )
    return rows


@pytest.fixture
async def rows(store: TraceStore, workspace: str) -> list[TraceRow]:
    made = traces(workspace)
    await store.insert([*made, row(f"{workspace}-foreign", 1, start=DAY, cost_usd=99)], workspace)
    return made[:400]


@pytest.fixture
def insights(store: TraceStore) -> Insights:
    return Insights(store)


@pytest.fixture
def wanted(workspace: str) -> InsightFilter:
    return InsightFilter(workspace=workspace, window=Window(start=DAY, end=DAY + timedelta(days=2)))


def of(rows: list[TraceRow], **fields: object) -> list[TraceRow]:
    return [one for one in rows if all(getattr(one, name) == value for name, value in fields.items())]


def failed(rows: list[TraceRow]) -> int:
    return len(of(rows, status=TraceStatus.ERROR)) + len(of(rows, status=TraceStatus.TIMEOUT))


async def test_reliability(insights: Insights, wanted: InsightFilter, rows: list[TraceRow]) -> None:
    found = await insights.reliability(wanted)
    assert sum(one.attempts for one in found) == 400
    assert [one.bucket for one in found] == sorted(one.bucket for one in found)
    first = next(one for one in found if one.node == "fast")
    mine = [one for one in of(rows, node="fast") if one.start < DAY + timedelta(hours=1)]
    assert (first.bucket, first.attempts) == (DAY, len(mine))
    assert (first.ok, first.errors, first.timeouts) == tuple(
        len(of(mine, status=one)) for one in (TraceStatus.OK, TraceStatus.ERROR, TraceStatus.TIMEOUT)
    )
    finished = len(mine) - len(of(mine, status=TraceStatus.CANCELLED))
    assert first.error_rate == pytest.approx(failed(mine) / finished)
    assert {one.bucket for one in await insights.reliability(wanted, timedelta(days=1))} == {
        DAY,
        DAY + timedelta(days=1),
    }


async def test_reliability_by_hour(insights: Insights, wanted: InsightFilter, rows: list[TraceRow]) -> None:
    found = await insights.reliability_by_hour(wanted)
    cell = next(one for one in found if (one.node, one.hour) == ("slow", 5))
    mine = [one for one in of(rows, node="slow") if one.start.hour == 5]
    assert cell.attempts == len(mine)
    assert {one.start.day for one in mine} == {1, 2}
    assert {one.hour for one in found} == set(range(24))


async def test_only_cancelled_attempts_have_no_rate(
    insights: Insights, store: TraceStore, wanted: InsightFilter, workspace: str
) -> None:
    await store.insert([row(workspace, 1, start=DAY, status=TraceStatus.CANCELLED)], f"{workspace}-c")
    (only,) = await insights.reliability(wanted)
    assert (only.attempts, only.error_rate, only.p95_ms) == (1, None, 0)
    (trend,) = await insights.trends(wanted)
    assert trend.current.model_dump() == {
        "attempts": 1,
        "error_rate": None,
        "p95_ms": None,
        "cost_per_success_usd": None,
    }
    assert await insights.latency(wanted) == ()


async def test_failures(insights: Insights, wanted: InsightFilter, rows: list[TraceRow]) -> None:
    found = await insights.failures(wanted)
    assert sum(one.count for one in found) == failed(rows)
    assert sum(one.share for one in found) == pytest.approx(1)
    assert [one.count for one in found] == sorted((one.count for one in found), reverse=True)
    one = found[0]
    mine = of(rows, error_fingerprint=one.fingerprint, node=one.node)
    assert one.count == len(mine)
    assert one.error_class == "network"
    assert (one.first_seen, one.last_seen) == (mine[0].start, mine[-1].start)
    assert one.sample_message == mine[-1].error_message
    assert list(one.sample_runs) == [each.run_id for each in reversed(mine)][:5]
    # The share is of all failures, not of those that fit on the page.
    assert (await insights.failures(wanted, limit=1))[0].share == pytest.approx(one.count / failed(rows))


async def test_latency(insights: Insights, wanted: InsightFilter, rows: list[TraceRow]) -> None:
    mine = [one for one in of(rows, node="fast") if one.status != TraceStatus.CANCELLED]
    cuts = statistics.quantiles([one.latency_ms for one in mine], n=100)
    found = next(one for one in await insights.latency(wanted) if one.node == "fast")
    assert found.count == len(mine)
    assert found.mean_ms == pytest.approx(statistics.fmean(one.latency_ms for one in mine))
    for value, rank in ((found.p50_ms, 50), (found.p90_ms, 90), (found.p95_ms, 95), (found.p99_ms, 99)):
        assert value == pytest.approx(cuts[rank - 1], rel=0.03)
    by_arm = await insights.latency(wanted, LatencySplit.ARM)
    assert {(one.node, one.arm, one.node_version) for one in by_arm} == {
        (node, arm, None) for node in ("fast", "slow") for arm in ("a", "b")
    }
    assert {one.node_version for one in await insights.latency(wanted, LatencySplit.VERSION)} == {"1.2.0"}
    series = await insights.latency_series(wanted, bucket=timedelta(hours=6))
    assert len({one.bucket for one in series}) == 8
    assert sum(one.count for one in series) == 360


async def test_cost(insights: Insights, wanted: InsightFilter, rows: list[TraceRow]) -> None:
    found = {one.node: one for one in await insights.cost(wanted)}
    mine = of(rows, node="fast")
    assert found["fast"].total_usd == pytest.approx(0.5 * len(mine))
    assert found["fast"].per_success_usd == pytest.approx(0.5 * len(mine) / len(of(mine, status=TraceStatus.OK)))
    assert found["fast"].per_attempt_usd == 0.5
    assert found["fast"].tokens_out == sum(one.tokens_out for one in mine)
    assert {one.workflow for one in await insights.cost(wanted, CostSplit.WORKFLOW)} == {"w1", "w2"}
    assert len(await insights.cost(wanted, CostSplit.ARM)) == 4
    assert len(await insights.cost(wanted, CostSplit.ARM, limit=2)) == 2


async def test_trends(insights: Insights, wanted: InsightFilter, rows: list[TraceRow]) -> None:
    found = await insights.trends(wanted)
    assert [one.node for one in found] == ["fast", "slow"]
    for one in found:
        assert one.current.attempts == one.previous.attempts == len(of(rows, node=one.node))
        assert one.previous.p95_ms == pytest.approx(2 * (one.current.p95_ms or 0), rel=0.02)


async def test_filters_by_node_and_workflow(insights: Insights, wanted: InsightFilter, rows: list[TraceRow]) -> None:
    narrow = wanted.model_copy(update={"node": "fast", "workflow": "w1"})
    (found,) = await insights.cost(narrow)
    assert found.attempts == len(of(rows, node="fast", workflow="w1"))
    assert await insights.trends(narrow.model_copy(update={"node": "x' OR 1=1 --"})) == ()
