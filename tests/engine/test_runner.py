"""What a workflow does, seen end to end: a real engine on a real journal."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from core.json import JsonValue
from core.run import NO_ITEM, EventType, RunStatus, StepStatus
from engine.node.sdk import node
from engine.state import RunState
from tests.conftest import ManualClock
from tests.engine.runner_room import Room, begun, ends, open_room


@pytest.fixture
async def room(database: str, tmp_path: Path) -> AsyncIterator[Room]:
    async with open_room(database, tmp_path) as opened:
        yield opened


def step(id_: str, node: str, params: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"id": id_, "node": node, "with": params or {}, **more}


def work(id_: str, **more: Any) -> dict[str, Any]:
    return step(id_, "test.work", {"value": id_}, **more)


def statuses(state: RunState) -> dict[str, str]:
    return {step_id: one.status.value for step_id, one in state.steps.items()}


async def test_outputs_come_from_the_steps(room: Room) -> None:
    spec = {
        "steps": [
            step("a", "transform.map", {"value": {"n": "{{ input.n + 1 }}"}}),
            step("b", "test.work", {"value": "{{ steps.a.output.n * 2 }}"}),
        ],
        "outputs": {"n": "{{ steps.b.output }}", "text": "n is {{ steps.a.output.n }}", "of": "{{ run.workflow }}"},
    }
    state = await room.run(spec, {"n": 20})
    assert (state.status, state.outputs) == (RunStatus.COMPLETED, {"n": 42, "text": "n is 21", "of": "flow"})


async def test_an_output_that_cannot_be_computed_fails_the_run(room: Room) -> None:
    state = await room.run({"steps": [work("a")], "outputs": {"x": "{{ steps.a.output.missing }}"}})
    assert state.status is RunStatus.FAILED
    assert state.error is not None
    assert state.error["class"] == "expression"


async def test_independent_steps_run_at_once(room: Room) -> None:
    steps = [step(f"s{n}", "test.work", {"seconds": 0.2}) for n in range(20)]
    begun_at = asyncio.get_running_loop().time()
    state = await room.run({"steps": steps})
    assert state.status is RunStatus.COMPLETED
    assert room.log.most == 20
    assert asyncio.get_running_loop().time() - begun_at < 1.5


async def test_a_step_starts_only_when_what_it_needs_is_done(room: Room) -> None:
    steps = [work("a"), work("b", needs=["a"]), work("c", needs=["a"]), work("d", needs=["b", "c"])]
    await room.run({"steps": steps})
    order = [one for one, _, _ in room.log.calls]
    assert (order[0], order[3], sorted(order)) == ("a", "d", ["a", "b", "c", "d"])


async def test_a_failed_step_fails_the_run_and_cancels_the_others(room: Room) -> None:
    state = await room.run(
        {"steps": [step("bad", "test.fail"), step("slow", "test.gate"), work("after", needs=["bad"])]}
    )
    assert statuses(state) == {"bad": "failed", "slow": "cancelled", "after": "cancelled"}
    assert state.error is not None
    assert (state.error["class"], state.error["step"]) == ("network", "bad")
    events = await room.ended(state.record.id)
    assert ends(events) == begun(events) == [("bad", NO_ITEM, 1), ("slow", NO_ITEM, 1)]


async def test_continue_shows_the_error_to_the_next_steps(room: Room) -> None:
    state = await room.run(
        {
            "steps": [
                step("bad", "test.fail", on_error="continue"),
                step("after", "test.work", {"value": "{{ steps.bad.error.message }}"}),
            ],
            "outputs": {"why": "{{ steps.after.output }}", "status": "{{ steps.bad.status }}"},
        }
    )
    assert (state.status, state.outputs) == (
        RunStatus.COMPLETED,
        {"why": "attempt 1 failed", "status": "failed"},
    )


@pytest.mark.parametrize(("fails", "expected"), [(True, "fallback"), (False, "main")])
async def test_a_fallback_stands_in_for_a_failed_step_only(room: Room, fails: bool, expected: str) -> None:
    main = step("main", "test.fail", on_error={"use": "rescue"}) if fails else work("main", on_error={"use": "rescue"})
    rescue = step("rescue", "test.work", {"value": "fallback"})
    after = step("after", "test.work", {"value": "{{ steps.main.output }}"})
    state = await room.run({"steps": [main, rescue, after], "outputs": {"v": "{{ steps.after.output }}"}})
    assert (state.status, state.outputs) == (RunStatus.COMPLETED, {"v": expected})
    assert statuses(state)["rescue"] == ("completed" if fails else "skipped")


async def test_skips_spread_and_merge_stops_them(room: Room) -> None:
    state = await room.run(
        {
            "steps": [
                step("if", "flow.if", {"condition": "{{ input.go }}"}),
                work("yes", when="{{ steps.if.output.result }}"),
                work("no", when="{{ !steps.if.output.result }}"),
                work("after_yes", needs=["yes"]),
                work("both", needs=["yes", "no"]),
                step("joined", "flow.merge", needs=["after_yes", "no"]),
            ],
            "outputs": {"joined": "{{ steps.joined.output }}"},
        },
        {"go": False},
    )
    assert statuses(state) == {
        "if": "completed",
        "yes": "skipped",
        "no": "completed",
        "after_yes": "skipped",
        "both": "completed",
        "joined": "completed",
    }
    assert state.outputs == {"joined": {"no": "no"}}


async def test_foreach_gives_the_outputs_in_order_and_keeps_to_its_concurrency(room: Room) -> None:
    each = step("each", "test.work", {"value": "{{ item * 10 + index }}", "seconds": 0.01}, concurrency=3)
    each["foreach"] = "{{ input.items }}"
    state = await room.run({"steps": [each], "outputs": {"all": "{{ steps.each.output }}"}}, {"items": [5, 6, 7, 8, 9]})
    assert state.outputs == {"all": [50, 61, 72, 83, 94]}
    assert room.log.most == 3


async def test_foreach_over_nothing_completes_with_an_empty_list(room: Room) -> None:
    steps = [step("each", "test.work", foreach="{{ input.items }}"), work("after", needs=["each"])]
    state = await room.run({"steps": steps, "outputs": {"all": "{{ steps.each.output }}"}}, {"items": []})
    assert (state.status, state.outputs, room.log.of("after")) == (RunStatus.COMPLETED, {"all": []}, [NO_ITEM])


async def test_foreach_over_what_is_no_list_fails_the_step(room: Room) -> None:
    state = await room.run({"steps": [step("each", "test.work", foreach="{{ input.items }}")]}, {"items": "text"})
    assert state.status is RunStatus.FAILED
    assert state.error is not None
    assert "instead of a list" in str(state.error["message"])


@pytest.mark.parametrize("node", ["test.work", "transform.map"])
async def test_foreach_over_a_thousand_items(room: Room, node: str) -> None:
    each = step("each", node, {"value": "{{ item }}"}, foreach="{{ input.items }}", concurrency=100)
    items = list(range(1_000))
    state = await room.run({"steps": [each], "outputs": {"all": "{{ steps.each.output }}"}}, {"items": items}, 30)
    assert state.outputs == {"all": items}
    events = await room.ended(state.record.id)
    assert ends(events) == [("each", item, 1) for item in items]


ODD = {"times": "{{ item % 2 == 1 ? 1000 : 0 }}"}


async def test_foreach_with_partial_failure_continues(room: Room) -> None:
    each = step("each", "test.fail", ODD, foreach=[0, 1, 2, 3], on_error="continue")
    state = await room.run({"steps": [each], "outputs": {"all": "{{ steps.each.output }}"}})
    assert state.status is RunStatus.COMPLETED
    assert isinstance(state.outputs, dict)
    shown = [one["error"]["class"] if isinstance(one, dict) else one for one in state.outputs["all"]]
    assert shown == [1, "network", 1, "network"]


async def test_foreach_with_a_failed_element_fails_the_step_and_leaves_no_attempt_open(room: Room) -> None:
    each = step("each", "test.fail", {"times": "{{ item }}"}, foreach=[0, 0, 1000, 0, 0, 0], concurrency=2)
    state = await room.run({"steps": [each, step("beside", "test.gate")]})
    assert (state.status, state.steps["each"].status) == (RunStatus.FAILED, StepStatus.FAILED)
    events = await room.ended(state.record.id)
    assert ends(events) == begun(events)
    assert set(room.log.of("each")) <= {0, 1, 2, 3}, "elements behind the window were started"


async def test_a_fallback_of_a_foreach_runs_while_its_other_elements_are_cancelled(room: Room) -> None:
    each = step("each", "test.work", {"value": "{{ 1 / item }}", "seconds": 5}, foreach=[1, 0], concurrency=2)
    each["on_error"] = {"use": "rescue"}
    state = await room.run({"steps": [each, work("rescue")], "outputs": {"v": "{{ steps.each.output }}"}})
    assert (state.status, state.outputs) == (RunStatus.COMPLETED, {"v": "rescue"})
    events = await room.ended(state.record.id)
    assert ends(events) == begun(events) == [("each", 0, 1), ("each", 1, 1), ("rescue", NO_ITEM, 1)]


async def test_retries_back_off_by_the_clock(database: str, tmp_path: Path, manual_clock: ManualClock) -> None:
    async with open_room(database, tmp_path, clock=manual_clock) as room:
        retry = {"max_attempts": 4, "initial": "10s", "factor": 3, "max": "60s", "jitter": True}
        actor = await room.submit({"steps": [step("s", "test.fail", {"times": 3}, retry=retry)]})
        waits = []
        for attempt in (1, 2, 3):
            await room.until(lambda n=attempt: len(room.log.calls) == n)  # type: ignore[misc]
            await room.until(lambda: actor.state.steps["s"].status is StepStatus.WAITING)
            due = actor.state.steps["s"].task.due_at
            assert due is not None
            waits.append((due - manual_clock.now()).total_seconds())
            manual_clock.advance(waits[-1])
            # The loop's own time has not moved: do what its timer would do.
            actor.inbox.post(lambda: actor.due("s", NO_ITEM))
        state = await asyncio.wait_for(actor.done, 5)
    # The manual clock draws 0.5, which is three quarters of the full delay.
    assert waits == [7.5, 22.5, 45.0]
    assert (state.status, state.steps["s"].output, state.steps["s"].attempts) == (RunStatus.COMPLETED, 4, 4)


async def test_retries_end_with_the_policy_and_with_the_class(room: Room) -> None:
    retry = {"max_attempts": 3, "initial": "10ms"}
    state = await room.run(
        {
            "steps": [
                step("often", "test.fail", retry=retry, on_error="continue"),
                step("once", "test.fail", {"kind": "auth"}, retry=retry, on_error="continue"),
            ]
        }
    )
    assert (state.steps["often"].attempts, state.steps["once"].attempts) == (3, 1)
    assert len(room.log.of("often")) == 3
    events = await room.ended(state.record.id)
    assert len(ends(events)) == 4


async def test_many_runs_share_a_transaction(room: Room) -> None:
    spec = {"steps": [step("a", "transform.map", {"value": 1}), work("b", needs=["a"])]}
    actors = [await room.submit(spec) for _ in range(3)]
    await asyncio.gather(*(actor.done for actor in actors))
    room.commits.clear()
    program, record = actors[0].program, actors[0].state.record
    fresh = [
        room.engine.accept(type(record)(**{**_fields(record), "id": room.clock.new_id()}), program) for _ in range(100)
    ]
    await asyncio.gather(*(actor.done for actor in fresh))
    assert sum(len(batch) for batch in room.commits) >= 200
    assert len(room.commits) < 20


def _fields(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


async def test_a_write_that_the_journal_refuses_stops_one_run_only(room: Room) -> None:
    spec = {"steps": [work("a")]}
    bad = await room.submit(spec, unit_key="a NUL \x00 is no text for PostgreSQL")
    good = [await room.submit(spec) for _ in range(5)]
    states = await asyncio.wait_for(asyncio.gather(*(actor.done for actor in good)), 5)
    assert {state.status for state in states} == {RunStatus.COMPLETED}
    await asyncio.wait((bad.done,), timeout=5)
    assert await room.journal.load(bad.state.record.id) is None
    assert room.engine.active == 0
    assert (await room.run(spec)).status is RunStatus.COMPLETED


async def test_a_run_whose_events_are_refused_is_read_back_and_ended(room: Room) -> None:
    actor = await room.submit({"steps": [work("a"), step("b", "test.unspeakable", needs=["a"])]})
    events = await room.ended(actor.state.record.id)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert events[-1].type is EventType.RUN_FAILED
    assert "refused" in events[-1].data["error"]["message"]
    assert room.log.of("a") == [NO_ITEM]


@pytest.mark.parametrize(
    ("retry", "calls"),
    [({"max_attempts": 3, "initial": "1ms"}, 1), ({"max_attempts": 3, "initial": "1ms", "on": ["network"]}, 3)],
)
async def test_an_unsafe_effect_that_may_have_happened_is_repeated_only_on_explicit_wish(
    room: Room, retry: dict[str, Any], calls: int
) -> None:
    state = await room.run({"steps": [step("pay", "test.doubtful", retry=retry)]})
    assert state.status is RunStatus.FAILED
    assert state.error is not None
    assert state.error["outcome_unknown"] is True
    assert len(room.log.calls) == calls


async def test_foreach_over_ten_thousand_items_with_failures(room: Room) -> None:
    spec = {
        "steps": [
            step(
                "each",
                "transform.map",
                foreach="{{ input.items }}",
                concurrency=100,
                on_error="continue",
                **{"with": {"value": "{{ 100 / item }}"}},
            )
        ],
        "outputs": {"all": "{{ steps.each.output }}"},
    }
    state = await room.run(spec, {"items": [i % 50 for i in range(10_000)]}, seconds=60)
    assert state.status is RunStatus.COMPLETED
    assert sum(1 for one in state.outputs["all"] if isinstance(one, dict) and "error" in one) == 200


async def test_a_run_is_accepted_once_for_one_id(room: Room) -> None:
    spec = {"steps": [step("a", "test.gate")]}
    first = await room.submit(spec)
    second = await room.submit(spec, id=first.state.record.id)
    room.log.gate.set()
    await asyncio.wait_for(asyncio.gather(first.done, second.done), 5)
    assert len(room.log.calls) == 1


class _Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


@pytest.mark.parametrize("raised", [SystemExit(3), _Unspeakable()], ids=["exit", "no message"])
async def test_whatever_a_node_raises_ends_its_step(room: Room, raised: BaseException) -> None:
    @node("test.raises", version="1.0.0", effect="pure")
    async def raises() -> JsonValue:
        raise raised

    room.registry.register(raises)
    state = await room.run({"steps": [step("a", "test.raises")]}, seconds=5)
    assert state.status is RunStatus.FAILED
    assert state.error is not None
    assert state.error["class"] == "internal"


async def test_a_fault_of_the_engine_ends_the_attempt(database: str, room: Room) -> None:
    connection = await asyncpg.connect(database)
    try:
        await connection.execute("ALTER TABLE secrets RENAME TO hidden")
        params = {"url": "http://127.0.0.1:9/", "headers": {"x-token": "{{ secrets.TOKEN }}"}}
        state = await room.run({"steps": [step("a", "http.request", params)]}, seconds=5)
    finally:
        await connection.execute("ALTER TABLE hidden RENAME TO secrets")
        await connection.close()
    assert state.status is RunStatus.FAILED
    assert state.error is not None
    assert state.error["class"] == "internal"
