"""The parts below the adapters, on inputs that nobody thought of."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ErrorClass, StepError
from infra.llm.events import MAX_EVENT_BYTES, ServerEvent, server_events
from infra.llm.failure import status_failure
from infra.llm.retry_after import MAX_SECONDS, retry_after
from infra.llm.schema import strict_schema

NOW = datetime(2026, 3, 14, 9, 0, tzinfo=UTC)

texts = st.text(st.characters(blacklist_characters="\r\n", blacklist_categories=["Cs"]), min_size=1, max_size=12)
events = st.lists(st.tuples(st.text("abc_", max_size=5), st.lists(texts, min_size=1, max_size=3)), max_size=5)


async def pieces(raw: bytes, cuts: list[int]) -> AsyncIterator[bytes]:
    ends = sorted({min(cut, len(raw)) for cut in cuts} | {len(raw)})
    for begin, end in zip([0, *ends], ends, strict=False):
        yield raw[begin:end]


@given(events, st.sampled_from(["\n", "\r\n", "\r"]), st.lists(st.integers(0, 200), max_size=20))
async def test_events_come_out_however_they_were_cut(
    given_events: list[tuple[str, list[str]]], end: str, cuts: list[int]
) -> None:
    lines: list[str] = [": a comment", ""]
    for name, data in given_events:
        lines += [f"event: {name}"] if name else []
        lines += [*(f"data: {one}" for one in data), ""]
    raw = "".join(line + end for line in lines).encode()
    found = [event async for event in server_events(pieces(raw, cuts))]
    assert found == [ServerEvent(name, "\n".join(data)) for name, data in given_events]


async def test_an_event_that_is_not_complete_is_left_out() -> None:
    raw = b"data: whole\n\ndata: half\n"
    assert [one.data async for one in server_events(pieces(raw, []))] == ["whole"]


@pytest.mark.parametrize("raw", [b"data: \xff\n\n", b"data: " + b"x" * (MAX_EVENT_BYTES + 1), b"data: x\n" * 1_200_000])
async def test_what_is_no_event_is_refused(raw: bytes) -> None:
    with pytest.raises(StepError) as raised:
        _ = [event async for event in server_events(pieces(raw, [len(raw) // 2]))]
    assert raised.value.error_class is ErrorClass.DECODE


@given(st.integers(0, 50_000))
def test_seconds_and_dates_mean_the_same(seconds: int) -> None:
    date = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
    assert retry_after({"retry-after": str(seconds)}, NOW) == seconds
    assert retry_after({"retry-after": date}, NOW) == seconds
    hours, rest = divmod(seconds, 3600)
    span = f"{hours}h{rest // 60}m{rest % 60}s"
    window = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": span}
    assert retry_after(window, NOW) == seconds
    assert retry_after({**window, "x-ratelimit-remaining-requests": "3"}, NOW) is None


header = st.text(st.characters(max_codepoint=255), max_size=30)


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "retry-after",
                "retry-after-ms",
                "x-ratelimit-reset-tokens",
                "anthropic-ratelimit-tokens-reset",
            ]
        ),
        header | st.floats().map(str) | st.from_regex(r"\d{1,9}(ms|s|m|h|d)", fullmatch=True),
    )
)
def test_any_header_gives_a_bounded_wait_or_none(headers: dict[str, str]) -> None:
    exhausted = {"x-ratelimit-remaining-tokens": "0", "anthropic-ratelimit-tokens-remaining": "0"}
    wait = retry_after({**headers, **exhausted}, NOW)
    assert wait is None or 0 <= wait <= MAX_SECONDS


def test_the_latest_of_several_limits_counts() -> None:
    headers = {
        "anthropic-ratelimit-requests-remaining": "0",
        "anthropic-ratelimit-requests-reset": "2026-03-14T09:00:10Z",
        "anthropic-ratelimit-tokens-remaining": "0",
        "anthropic-ratelimit-tokens-reset": "2026-03-14T09:00:40Z",
        "anthropic-ratelimit-input-tokens-remaining": "5",
        "anthropic-ratelimit-input-tokens-reset": "2026-03-14T09:59:00Z",
    }
    assert retry_after(headers, NOW) == 40


@given(
    st.text(st.characters(codec="ascii", min_codepoint=33), min_size=8, max_size=20), st.sampled_from([400, 429, 500])
)
def test_no_error_holds_the_key(key: str, status: int) -> None:
    body = {"error": {"message": f"bad key {key}, really {key}", "code": key, "type": key}}
    for sent in (body, body["error"], {"error": key}, key, None, [key]):
        error = status_failure(status, {}, sent, "https://api.example", key, NOW)
        assert key not in error.message.replace("https://api.example", "").replace(f"(HTTP status {status})", "")
        assert key not in error.detail.values()


leaves = st.sampled_from([{"type": "string"}, {"type": "integer"}, {"type": ["number", "null"]}, {"enum": ["a", 1]}])
schemas: st.SearchStrategy[dict[str, Any]] = st.recursive(
    leaves,
    lambda inner: (
        st.builds(
            lambda members, needed: {"type": "object", "properties": members, "required": sorted(members)[:needed]},
            st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
            st.integers(0, 3),
        )
        | st.builds(lambda one: {"type": "array", "items": one}, inner)
        | st.builds(lambda many: {"anyOf": many}, st.lists(inner, min_size=1, max_size=2))
    ),
    max_leaves=6,
)
values = st.recursive(
    st.none() | st.integers(0, 3) | st.sampled_from(["a", "b"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from("abc"), schemas, max_size=3), st.lists(values, max_size=8))
def test_a_strict_schema_only_narrows(members: dict[str, Any], candidates: list[Any]) -> None:
    schema = {"type": "object", "properties": members}
    strict = strict_schema(schema)
    assert strict is not None
    for value in candidates:
        if jsonschema_rs.is_valid(strict, value):
            assert jsonschema_rs.is_valid(schema, value)
    assert strict["required"] == list(members)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "items": {"type": "string"}},
        {"type": "object", "additionalProperties": {"type": "string"}},
        {"type": "object", "properties": {"a": {"type": "object", "patternProperties": {"x": {}}}}},
        {"type": "object", "properties": {"a": {"oneOf": [{"type": "string"}]}}},
        {"type": "object", "properties": {"a": True}},
    ],
)
def test_what_has_no_strict_form(schema: dict[str, Any]) -> None:
    assert strict_schema(schema) is None
