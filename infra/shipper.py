"""Carries the ends of attempts from the journal to the trace store, exactly once in effect.

It follows the journal in the order of (transaction, run, seq), and only through transactions below every one that is
still open, so nothing can appear behind it. Before a batch is sent its end is noted beside the cursor. After a crash
the very same batch is sent again under the same token, and the trace store knows it.
When the trace store is away the journal simply waits: it is the buffer.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import asyncpg
import orjson
import structlog

from core.errors import Unavailable
from core.trace import TraceRow, TraceStatus, attempt_id

_log = structlog.get_logger(__name__)

BATCH_ROWS = 5_000
_ROWS_PER_TURN = 100
LINGER_SECONDS = 0.2
"""How long rows may gather before they are sent: many small parts are what ClickHouse likes least."""
POLL_SECONDS = 1.0
_LEADER_LOCK = 0x5245464C
_CURSOR = "traces"
_LAST_ID = UUID(int=2**128 - 1)

_FOLLOW = """
SELECT e.tx::text AS tx, e.run_id, e.seq, e.step_id, e.item, e.attempt, e.data,
       r.workspace, r.workflow, r.workflow_version, r.context
FROM run_events e JOIN runs r ON r.id = e.run_id
WHERE (e.tx, e.run_id, e.seq) > ($1::text::xid8, $2::uuid, $3::int)
  AND e.tx < pg_snapshot_xmin(pg_current_snapshot())
  AND e.type IN ('attempt_succeeded', 'attempt_failed', 'attempt_cancelled')
  {upto}
ORDER BY e.tx, e.run_id, e.seq LIMIT $4
"""
_FOLLOW_ON = _FOLLOW.format(upto="")
_FOLLOW_AGAIN = _FOLLOW.format(upto="AND (e.tx, e.run_id, e.seq) <= ($5::text::xid8, $6::uuid, $7::int)")


class TraceSink(Protocol):
    """Where traces go."""

    async def insert(self, rows: Sequence[TraceRow], token: str) -> None:
        """Store the rows; the same token again changes nothing. Raises Unavailable when they may not be stored."""
        ...

    async def insert_missing(self, rows: Sequence[TraceRow], token: str) -> int:
        """Store those of the rows that are not there, after an `insert` whose fate nobody knows."""
        ...


class TraceShipper:
    """See the module. Of all processes on a database one ships; the others stand by."""

    def __init__(self, dsn: str, sink: TraceSink) -> None:
        self._dsn = dsn
        self._sink = sink
        self._wanted = asyncio.Event()
        self._hurry = asyncio.Event()
        self._idle: list[asyncio.Future[None]] = []
        self._task: asyncio.Task[None] | None = None
        self._doubtful = False
        self.shipped = 0
        self.failing = False

    def start(self) -> None:
        """Begin to ship."""
        self._task = asyncio.create_task(self._run())

    def wake(self) -> None:
        """There is something new in the journal."""
        self._wanted.set()

    async def caught_up(self, seconds: float) -> bool:
        """Wait until what is in the journal now has been shipped; False when that takes longer than `seconds`."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._idle.append(done)
        self._wanted.set()
        self._hurry.set()
        finished, _ = await asyncio.wait((done,), timeout=seconds)
        if not finished:
            self._idle = [one for one in self._idle if one is not done]
        return bool(finished)

    async def aclose(self, drain_seconds: float = 1.0) -> None:
        """Ship what is left, as far as the time allows, and stop."""
        if self._task is None:
            return
        await self.caught_up(drain_seconds)
        self._task.cancel()
        await asyncio.wait((self._task,))

    async def _run(self) -> None:
        while True:
            try:
                connection = await asyncpg.connect(self._dsn, timeout=10)
                try:
                    await connection.execute("SELECT pg_advisory_lock($1)", _LEADER_LOCK)
                    await self._lead(connection)
                finally:
                    connection.terminate()
            except (Unavailable, OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                if not self.failing:
                    _log.warning("traces wait in the journal", reason=str(error) or type(error).__name__)
                self.failing = True
            except Exception:  # noqa: BLE001 -- task boundary: one bad batch must not end shipping for good
                _log.exception("a batch of traces cannot be shipped; trying again")
                self.failing = True
            await asyncio.sleep(POLL_SECONDS)

    async def _lead(self, connection: Any) -> None:
        await connection.execute(
            "INSERT INTO shipper_cursor (name, tx, run_id, seq, updated_at)"
            " VALUES ($1, '0', '00000000-0000-0000-0000-000000000000', 0, now()) ON CONFLICT DO NOTHING",
            _CURSOR,
        )
        self._doubtful = await _settle_in_new_cluster(connection)
        while True:
            waiting, self._idle = self._idle, []
            try:
                while (rows := await self._ship(connection)) > 0:
                    if rows < BATCH_ROWS and not waiting:
                        break
            except BaseException:
                self._idle += waiting  # they wait for the next try
                raise
            self.failing = False
            for one in waiting:
                if not one.done():
                    one.set_result(None)
            await self._pause()

    async def _pause(self) -> None:
        if not self._idle:
            self._hurry.clear()
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await self._wanted.wait()
            except TimeoutError:
                return
            try:
                async with asyncio.timeout(LINGER_SECONDS):
                    await self._hurry.wait()
            except TimeoutError:
                pass
        self._wanted.clear()

    async def _ship(self, connection: Any) -> int:
        """Ship one batch; returns how many rows it had."""
        at = await connection.fetchrow(
            "SELECT tx::text AS tx, run_id, seq, pending FROM shipper_cursor WHERE name = $1", _CURSOR
        )
        begin = (at["tx"], at["run_id"], at["seq"])
        if at["pending"] is not None:
            end = orjson.loads(at["pending"])
            found = await connection.fetch(_FOLLOW_AGAIN, *begin, 2**31 - 1, end["tx"], end["run_id"], end["seq"])
        else:
            found = await connection.fetch(_FOLLOW_ON, *begin, BATCH_ROWS)
            if not found:
                return 0
            last = found[-1]
            end = {"tx": last["tx"], "run_id": str(last["run_id"]), "seq": last["seq"]}
            await connection.execute(
                "UPDATE shipper_cursor SET pending = $2, updated_at = now() WHERE name = $1",
                _CURSOR,
                orjson.dumps(end).decode(),
            )
        if found:
            rows, token = await _rows(found), _token(begin, end)
            await self._store(rows, token, self._doubtful, at["pending"] is not None)
        await connection.execute(
            "UPDATE shipper_cursor SET tx = $2::text::xid8, run_id = $3::uuid, seq = $4, pending = NULL,"
            " updated_at = now() WHERE name = $1",
            _CURSOR,
            end["tx"],
            end["run_id"],
            end["seq"],
        )
        self.shipped += len(found)
        return len(found)

    async def _store(self, rows: Sequence[TraceRow], token: str, doubtful: bool, again: bool) -> None:
        """Store a batch. A row that can never be stored is named in the log; it must not hold up all others."""
        try:
            if not doubtful:
                await self._sink.insert(rows, token)
            if doubtful or again:
                await self._sink.insert_missing(rows, token)
        except (Unavailable, asyncio.CancelledError):
            raise
        except Exception as error:  # noqa: BLE001 -- task boundary: see above
            if len(rows) == 1:
                _log.error("a trace cannot be stored", attempt_id=str(rows[0].attempt_id), error=type(error).__name__)
                return
            half = len(rows) // 2
            await self._store(rows[:half], f"{token}-a", True, True)
            await self._store(rows[half:], f"{token}-b", True, True)


async def _settle_in_new_cluster(connection: Any) -> bool:
    """Make a journal that was restored into another PostgreSQL cluster one that can be followed there.

    Transaction numbers belong to a cluster. Where a number is higher than any that this cluster has given out, what
    was shipped is put before all that comes, and what was not gets this transaction's number.

    Returns:
        whether that was so; then the last batch of before may be stored, or not, or in part.
    """
    foreign = await connection.fetchval(
        "SELECT EXISTS (SELECT 1 FROM run_events WHERE tx >= pg_snapshot_xmax(pg_current_snapshot())"
        " AND type IN ('attempt_succeeded', 'attempt_failed', 'attempt_cancelled'))"
    )
    if not foreign:
        return False
    _log.warning("the journal comes from another PostgreSQL cluster; its transactions are numbered anew")
    async with connection.transaction():
        at = await connection.fetchrow(
            "SELECT tx::text AS tx, run_id, seq FROM shipper_cursor WHERE name = $1 FOR UPDATE", _CURSOR
        )
        await connection.execute(
            "UPDATE run_events SET tx = CASE WHEN (tx, run_id, seq) > ($1::text::xid8, $2::uuid, $3::int)"
            " THEN pg_current_xact_id() ELSE '0'::xid8 END",
            at["tx"],
            at["run_id"],
            at["seq"],
        )
        await connection.execute(
            "UPDATE shipper_cursor SET tx = '0', run_id = $2, seq = $3, pending = NULL WHERE name = $1",
            _CURSOR,
            _LAST_ID,
            2**31 - 1,
        )
    return True


async def _rows(found: Sequence[Any]) -> list[TraceRow]:
    """Trace rows of events. Runs get their turn in between: a full batch takes long enough for them to notice."""
    rows: list[TraceRow] = []
    for one in found:
        rows.append(_row(one))
        if len(rows) % _ROWS_PER_TURN == 0:
            await asyncio.sleep(0)
    return rows


def _token(begin: tuple[Any, ...], end: dict[str, Any]) -> str:
    return hashlib.blake2b(orjson.dumps([*map(str, begin), end]), digest_size=16).hexdigest()


def _row(found: Any) -> TraceRow:
    data = orjson.loads(found["data"])
    trace, error = data["trace"], data.get("error") or {}
    run_id = str(found["run_id"])
    return TraceRow(
        attempt_id=attempt_id(run_id, found["step_id"], found["item"], found["attempt"]),
        workspace=found["workspace"],
        run_id=run_id,
        workflow=found["workflow"],
        workflow_version=found["workflow_version"],
        step_id=found["step_id"],
        item=found["item"],
        attempt=found["attempt"],
        node=trace["node"],
        node_version=trace["node_version"],
        status=TraceStatus(trace["status"]),
        start=datetime.fromisoformat(trace["start"]),
        latency_ms=trace["latency_ms"],
        arm=trace.get("arm", ""),
        arm_probability=trace.get("arm_probability", 1.0),
        route_revision=trace.get("route_revision", 0),
        assigned_arm=trace.get("assigned_arm", ""),
        served_by=trace.get("served_by", ""),
        breaker=trace.get("breaker", ""),
        rollout=trace.get("rollout", ""),
        stage=trace.get("stage", ""),
        queue_ms=trace.get("queue_ms", 0.0),
        cache_hit=trace.get("cache_hit", False),
        error_class=error.get("class", ""),
        error_message=error.get("message", ""),
        error_fingerprint=trace.get("error_fingerprint", ""),
        inputs_hash=trace.get("inputs_hash", ""),
        cost_usd=trace.get("cost_usd", 0.0),
        tokens_in=trace.get("tokens_in", 0),
        tokens_out=trace.get("tokens_out", 0),
        metrics=trace.get("metrics", {}),
        numbers=trace.get("numbers", {}),
        texts=trace.get("texts", {}),
        context=orjson.loads(found["context"]),
    )
