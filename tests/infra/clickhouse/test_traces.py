"""One conformance suite for the embedded engine and for a server."""

import asyncio
import uuid
from datetime import timedelta

import pytest

from core.errors import Invalid
from core.trace import TraceStatus
from infra.clickhouse.columns import table_of
from infra.clickhouse.traces import TraceFilter, TraceStore
from tests.infra.clickhouse.rows import BASE, full_row, row


async def test_every_field_comes_back(store: TraceStore, workspace: str) -> None:
    stored = [full_row(workspace), row(workspace)]
    await store.insert(stored, f"{workspace}-1")
    assert list((await store.query(TraceFilter(workspace))).items) == stored


async def test_same_token_stores_once_over_many_months(store: TraceStore, workspace: str) -> None:
    rows = [row(workspace, i, start=BASE - timedelta(days=31 * i)) for i in range(30)]
    for _ in range(3):
        await store.insert(rows, f"{workspace}-a")
    assert await store.count(TraceFilter(workspace)) == 30
    # Only the token makes it one delivery: another token is another batch.
    await store.insert(rows, f"{workspace}-b")
    assert await store.count(TraceFilter(workspace)) == 60


async def test_empty_batch_is_nothing(store: TraceStore, workspace: str) -> None:
    await store.insert([], "never")
    assert await store.count(TraceFilter(workspace)) == 0


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"run_id": "other"}, {"run_id": "other"}),
        ({"node": "n2"}, {"node": "n2"}),
        ({"node_version": "9.0.0"}, {"node_version": "9.0.0"}),
        ({"workflow": "w2"}, {"workflow": "w2"}),
        ({"step_id": "s2"}, {"step_id": "s2"}),
        ({"status": TraceStatus.TIMEOUT}, {"status": TraceStatus.TIMEOUT}),
        ({"error_class": "auth"}, {"error_class": "auth"}),
        ({"error_fingerprint": "f"}, {"fingerprint": "f"}),
        ({"arm": "a'; DROP TABLE traces --"}, {"arm": "a'; DROP TABLE traces --"}),
        ({"start": BASE + timedelta(days=2)}, {"start": BASE + timedelta(days=2)}),
        ({"start": BASE - timedelta(days=2)}, {"end": BASE}),
    ],
)
async def test_filters(store: TraceStore, workspace: str, changes: dict, wanted: dict) -> None:
    odd = row(workspace, 1, **changes)
    await store.insert([row(workspace, 0), odd, row(workspace, 2)], workspace)
    await store.insert([row(f"{workspace}-foreign", 1, **changes)], f"{workspace}-foreign")
    page = await store.query(TraceFilter(workspace, **wanted))
    assert list(page.items) == [odd]
    assert await store.count(TraceFilter(workspace, **wanted)) == 1


async def test_pages_meet_and_do_not_shift(store: TraceStore, workspace: str) -> None:
    # Groups of four rows share one start, so that the attempt id has to tell them apart.
    rows = [row(workspace, i, start=BASE + timedelta(microseconds=i // 4)) for i in range(23)]
    await store.insert(rows, f"{workspace}-1")
    seen, cursor = [], None
    for _ in range(10):
        page = await store.query(TraceFilter(workspace), limit=5, cursor=cursor)
        seen += page.items
        cursor = page.next_cursor
        if cursor is None:
            break
        await store.insert([row(workspace, 100 + len(seen))], f"{workspace}-late-{len(seen)}")
    assert len(seen) == 23
    assert {one.attempt_id for one in seen} == {one.attempt_id for one in rows}
    assert [one.start for one in seen] == sorted((one.start for one in rows), reverse=True)


@pytest.mark.parametrize("cursor", ["", "x", "AAAA", "ÿ", "A" * 32 + "!"])
async def test_foreign_cursor_is_refused(store: TraceStore, workspace: str, cursor: str) -> None:
    with pytest.raises(Invalid) as caught:
        await store.query(TraceFilter(workspace), cursor=cursor)
    assert caught.value.faults[0].code == "bad_cursor"


async def test_known_attempts(store: TraceStore, workspace: str) -> None:
    rows = [row(workspace, i) for i in range(10)]
    await store.insert(rows, workspace)
    strangers = [uuid.uuid5(uuid.NAMESPACE_OID, f"stranger {i}") for i in range(2500)]
    found = await store.known_attempts(workspace, [*strangers, rows[3].attempt_id, rows[9].attempt_id])
    assert found == {rows[3].attempt_id, rows[9].attempt_id}
    assert await store.known_attempts("elsewhere", [rows[3].attempt_id]) == set()


async def test_insert_new_leaves_out_what_is_stored(store: TraceStore, workspace: str) -> None:
    rows = [row(workspace, i) for i in range(20)]
    assert await store.insert_new(table_of(rows[:8]), f"{workspace}-1") == 8
    assert await store.insert_new(table_of(rows), f"{workspace}-2") == 12
    assert await store.insert_new(table_of(rows), f"{workspace}-2") == 0
    assert await store.count(TraceFilter(workspace)) == 20


async def test_calls_overlap_without_holding_the_loop(store: TraceStore, workspace: str) -> None:
    rows = [row(workspace, i) for i in range(20_000)]
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.001)

    ticking = asyncio.create_task(tick())
    await asyncio.gather(store.insert(rows, workspace), *(store.count(TraceFilter(workspace)) for _ in range(6)))
    ticking.cancel()
    assert ticks > 10
    assert await store.count(TraceFilter(workspace)) == 20_000


async def test_insert_missing_fills_the_gaps_of_a_batch(store: TraceStore, workspace: str) -> None:
    rows = [row(workspace, i) for i in range(10)]
    await store.insert(rows[:4], f"{workspace}-part")
    assert await store.insert_missing(rows, f"{workspace}-whole") == 6
    assert await store.insert_missing(rows, f"{workspace}-whole") == 0
    assert await store.count(TraceFilter(workspace)) == 10
