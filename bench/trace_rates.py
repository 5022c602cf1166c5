"""How fast traces get into the embedded store: from the journal's rows, by bulk import, and as prepared Arrow."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pyarrow as pa

from core.trace import TraceRow, TraceStatus, attempt_id
from infra.clickhouse.client import ClickHouse, parse_target
from infra.clickhouse.importer import import_traces
from infra.clickhouse.traces import TraceStore

_START = datetime(2026, 10, 1, tzinfo=UTC)
_BATCH = 5_000
_ROWS = 100_000


@dataclass(frozen=True)
class TraceRates:
    """Rows per second."""

    rows: float
    imported: float
    arrow: float


def _rows(first: int, count: int) -> list[TraceRow]:
    return [
        TraceRow(
            attempt_id=attempt_id(f"run-{i // 3}", f"step{i % 3}", -1, 1),
            workspace="default",
            run_id=f"run-{i // 3}",
            workflow="orders",
            workflow_version=3,
            step_id=f"step{i % 3}",
            item=-1,
            attempt=1,
            node="http.request",
            node_version="1.0.0",
            status=TraceStatus.OK,
            start=_START + timedelta(seconds=i),
            latency_ms=12.5 + i % 100,
            metrics={"response_bytes": 512.0},
            numbers={"amount": float(i % 1000)},
            texts={"currency": "EUR"},
            context={"locale": "de"},
        )
        for i in range(first, first + count)
    ]


def _ndjson(count: int) -> bytes:
    return b"\n".join(
        orjson.dumps(
            {
                "run_id": f"other-{i // 3}",
                "step_id": f"step{i % 3}",
                "node": "payment.charge",
                "status": "ok",
                "start": (_START + timedelta(seconds=i)).isoformat(),
                "latency_ms": 12.5 + i % 100,
                "features": {"amount": i % 1000, "currency": "EUR"},
                "context": {"locale": "de"},
            }
        )
        for i in range(count)
    )


async def trace_rates(home: Path) -> TraceRates:
    """Measure in a fresh store below `home`."""
    clickhouse = ClickHouse(parse_target(home))
    store = TraceStore(clickhouse)
    try:
        await store.prepare()
        await store.insert(_rows(0, _BATCH), "warm-up")
        batches = [_rows(first, _BATCH) for first in range(_BATCH, _BATCH + _ROWS, _BATCH)]
        started = time.perf_counter()
        for number, batch in enumerate(batches):
            await store.insert(batch, f"batch-{number}")
        rows = _ROWS / (time.perf_counter() - started)

        body = _ndjson(_ROWS)

        async def chunks() -> AsyncIterator[bytes]:
            for at in range(0, len(body), 65_536):
                yield body[at : at + 65_536]

        started = time.perf_counter()
        report = await import_traces(store, chunks(), "default", lambda error_class, message: "")
        imported = report.inserted / (time.perf_counter() - started)
        return TraceRates(rows, imported, await _prepared_arrow(clickhouse))
    finally:
        await store.aclose()


async def _prepared_arrow(clickhouse: ClickHouse) -> float:
    count = 10_000
    table = pa.table(
        {"id": pa.array(range(count)), "text": pa.array(["a text of some length"] * count)}
        | {f"n{i}": pa.array([1.5] * count) for i in range(16)}
    )
    columns = "id Int64, text String, " + ", ".join(f"n{i} Float64" for i in range(16))
    await clickhouse.write(
        lambda client: client.command(f"CREATE TABLE raw ({columns}) ENGINE = MergeTree ORDER BY id")
    )
    started = time.perf_counter()
    for _ in range(20):
        await clickhouse.write(lambda client: client.insert_arrow("raw", table))
    return 20 * count / (time.perf_counter() - started)
