import json
from collections.abc import AsyncIterator
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import Invalid
from infra.clickhouse import imports
from infra.clickhouse.import_fields import check
from infra.clickhouse.importer import ImportReport, import_traces
from infra.clickhouse.imports import RowFault, TraceImport
from infra.clickhouse.traces import TraceFilter, TraceStore

GOOD: dict[str, Any] = {
    "run_id": "r",
    "step_id": "s",
    "node": "n",
    "status": "ok",
    "start": "2025-03-01T12:00:00.123456Z",
    "latency_ms": 12,
}


def name_failure(error_class: str, message: str) -> str:
    return f"{error_class}:{len(message)}"


def parsed(body: bytes, step: int = 1000) -> tuple[list[dict[str, Any]], TraceImport]:
    reading = TraceImport("w", name_failure)
    tables: list[pa.Table] = []
    for first in range(0, len(body), step):
        tables += reading.feed(body[first : first + step])
    tables += reading.finish()
    return [one for table in tables for one in table.to_pylist()], reading


def lines(*rows: dict[str, Any]) -> bytes:
    return b"\n".join(json.dumps(row).encode() for row in rows)


def reason(row: Any) -> RowFault:
    rows, reading = parsed(json.dumps([row]).encode())
    assert rows == []
    return reading.faults[0]


def varied(count: int) -> list[dict[str, Any]]:
    return [{**GOOD, "run_id": f"r{i}", "latency_ms": i} for i in range(count)]


@pytest.mark.parametrize("form", ["ndjson", "array", "envelope", "pretty", "crlf", "blank lines"])
def test_forms_give_the_same_attempts(form: str) -> None:
    rows = varied(30)
    body = {
        "ndjson": lines(*rows),
        "array": json.dumps(rows).encode(),
        "envelope": json.dumps({"traces": rows}).encode(),
        "pretty": json.dumps({"traces": rows}, indent=2).encode(),
        "crlf": lines(*rows).replace(b"\n", b"\r\n"),
        "blank lines": b"\n\n" + lines(*rows).replace(b"\n", b"\n \n") + b"\n\n",
    }[form]
    found, reading = parsed(body)
    assert reading.faults == []
    assert [one["run_id"] for one in found] == [one["run_id"] for one in rows]
    assert [one["attempt_id"] for one in found] == [one["attempt_id"] for one in parsed(lines(*rows))[0]]


def test_streams_lines_before_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "_FEED_BYTES", 1000)
    reading = TraceImport("w", name_failure)
    body = lines(*varied(50))
    early = sum(table.num_rows for first in range(0, 4000, 333) for table in reading.feed(body[first : first + 333]))
    assert early > 10
    reading = TraceImport("w", name_failure)
    tables = [table for first in range(0, len(body), 333) for table in reading.feed(body[first : first + 333])]
    tables += reading.finish()
    assert sum(table.num_rows for table in tables) == 50
    assert reading.faults == []


def test_all_fields_arrive() -> None:
    (row,), _ = parsed(
        lines(
            {
                **GOOD,
                "status": "error",
                "start": "2025-03-01T14:00:00+02:00",
                "node_version": "1.0.0",
                "workflow": "wf",
                "attempt": 2,
                "error_class": "network",
                "error_message": "boom",
                "cost_usd": 0.5,
                "tokens_in": 3,
                "tokens_out": 4,
                "cache_hit": True,
                "inputs_hash": "h",
                "features": {"size": 3, "ratio": 0.5, "country": "de"},
                "context": {"tier": "gold"},
                "metrics": {"quality": 1},
                "arm": "a",
                "arm_probability": 0.5,
            }
        )
    )
    assert row["start"].isoformat() == "2025-03-01T12:00:00+00:00"
    assert row["numbers"] == [("size", 3.0), ("ratio", 0.5)]
    assert row["texts"] == [("country", "de")]
    assert row["metrics"] == [("quality", 1.0)]
    assert row["error_fingerprint"] == "network:4"
    assert (row["item"], row["attempt"], row["cache_hit"], row["workspace"]) == (-1, 2, True, "w")


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        *(({name: None}, name, "is required") for name in GOOD),
        ({"run_id": 7}, "run_id", "must be a text"),
        ({"run_id": " \u0000"}, "run_id", "must not be empty"),
        ({"node": "n" * 201}, "node", "longer than 200"),
        ({"status": "fine"}, "status", "must be ok, error, timeout or cancelled"),
        ({"start": "2025-03-01T12:00:00"}, "start", "offset"),
        ({"start": "20250301T120000Z"}, "start", "RFC 3339"),
        ({"start": "2025-02-30T12:00:00Z"}, "start", "exists"),
        ({"start": "1989-12-31T23:59:59Z"}, "start", "between 1990 and 2100"),
        ({"start": "2100-01-01T00:00:00Z"}, "start", "between 1990 and 2100"),
        ({"start": 1740830400}, "start", "must be a text"),
        ({"latency_ms": -0.1}, "latency_ms", "at least 0"),
        ({"latency_ms": True}, "latency_ms", "must be a number"),
        ({"latency_ms": "12"}, "latency_ms", "must be a number"),
        ({"latency_ms": 1e300}, "latency_ms", "at most"),
        ({"attempt": 0}, "attempt", "at least 1"),
        ({"attempt": 1.5}, "attempt", "must be an integer"),
        ({"tokens_in": 2**63}, "tokens_in", "at most"),
        ({"cache_hit": 1}, "cache_hit", "true or false"),
        ({"arm_probability": 0}, "arm_probability", "above 0"),
        ({"arm_probability": 1.01}, "arm_probability", "at most 1"),
        ({"features": [1]}, "features", "must be an object"),
        ({"features": {"a": True}}, "features", "'a' is not"),
        ({"features": {str(i): i for i in range(65)}}, "features", "more than 64"),
        ({"features": {"a": 1e300}}, "features", "1e15"),
        ({"context": {"a": 1}}, "context", "of texts"),
        ({"context": {"a": "x" * 501}}, "context", "longer than 500"),
        ({"metrics": {"a": "1"}}, "metrics", "of numbers"),
        ({"latency": 1}, "latency", "is not a field"),
    ],
)
def test_bad_rows_are_told_and_others_kept(changes: dict[str, Any], field: str, words: str) -> None:
    rows, reading = parsed(lines(GOOD, {**GOOD, **changes}, {**GOOD, "run_id": "z"}))
    assert [one["run_id"] for one in rows] == ["r", "z"]
    (fault,) = reading.faults
    assert (fault.line, fault.field) == (2, field)
    assert words in fault.reason
    assert reading.rejected == 1


def test_lines_that_are_no_rows() -> None:
    body = (
        lines(GOOD)
        + b'\n{"run_id": \n[1]\n"x"\n\n'
        + b'{"a":' * 200
        + b"1"
        + b"}" * 200
        + b"\n"
        + lines({**GOOD, "node": "b"})
    )
    rows, reading = parsed(body)
    assert [one["node"] for one in rows] == ["n", "b"]
    assert sorted(one.line for one in reading.faults) == [2, 3, 4, 6]
    assert reason([1]).reason == "must be an object"


def test_names_lose_control_characters() -> None:
    (row,), _ = parsed(lines({**GOOD, "node": "a\u0000b\u001b", "error_message": "x\ny\u0007" + "z" * 3000}))
    assert row["node"] == "ab"
    assert row["error_message"].startswith("x\nyz")
    assert len(row["error_message"]) == 2000


def test_reported_faults_are_bounded() -> None:
    _, reading = parsed(lines(*({**GOOD, "latency_ms": -i - 1} for i in range(250))))
    assert (reading.rejected, len(reading.faults)) == (250, 100)


@pytest.mark.parametrize("body", [b"[1, 2", b"[]x", b"12", b'{"traces": 1}', b'"x"', b"{\n}x"])
def test_what_is_no_import(body: bytes) -> None:
    try:
        rows, reading = parsed(body)
    except Invalid:
        return
    assert rows == []
    assert reading.rejected == 1


def test_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "MAX_BODY", 500)
    with pytest.raises(Invalid) as caught:
        parsed(lines(*varied(10)))
    assert caught.value.faults[0].code == "too_large"


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 10**16),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=4),
    st.sampled_from(["ok", "2025-03-01T12:00:00Z", "x" * 300, "\u0001"]),
    st.dictionaries(st.text(max_size=2), st.one_of(st.text(max_size=3), st.integers(), st.booleans()), max_size=3),
)


@given(
    st.lists(
        st.dictionaries(st.sampled_from([*GOOD, "features", "context", "attempt", "arm", "what"]), ODD), max_size=6
    )
)
def test_a_row_is_judged_the_same_alone_and_in_company(odd: list[dict[str, Any]]) -> None:
    """Columns are checked together for speed: that must not let one row's faults touch another."""
    rows = [{**GOOD, **one} for one in odd] + [GOOD]
    together, bad = check([dict(row) for row in rows])
    for i, row in enumerate(rows):
        alone, worse = check([dict(row)])
        assert bad.get(i) == worse.get(0)
        if i not in bad:
            assert {name: values[i] for name, values in together.items()} == {k: v[0] for k, v in alone.items()}
    assert len(rows) - 1 not in bad


async def pieces(body: bytes) -> AsyncIterator[bytes]:
    for first in range(0, len(body), 5000):
        yield body[first : first + 5000]


async def test_importing_again_adds_nothing(store: TraceStore, workspace: str) -> None:
    rows = varied(3000)

    async def load(body: bytes) -> ImportReport:
        return await import_traces(store, pieces(body), workspace, name_failure)

    assert await load(lines(*rows[:1700])) == ImportReport(1700, 0, 0, ())
    # The same rows in another form and with others around them.
    assert await load(json.dumps(rows[1000:]).encode()) == ImportReport(1300, 700, 0, ())
    again = await load(lines(*rows, rows[0], {**rows[0], "cost_usd": -1}))
    assert (again.inserted, again.duplicates, again.rejected) == (0, 3001, 1)
    assert again.faults[0].line == 3002
    assert await store.count(TraceFilter(workspace)) == 3000
    assert await store.count(TraceFilter(workspace, run_id="r2999")) == 1
