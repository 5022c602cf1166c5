"""Routes, as runs meet them: which arm serves, what of it is recorded, and what a crash or a breaker changes."""

import asyncio
from pathlib import Path
from typing import Any

from core.command import Proceed
from core.ids import DEFAULT_WORKSPACE
from core.manifest import NodeStatus
from core.route import Route
from core.run import EventType, RunOptions, RunStatus
from engine.node.binding import BindingSpec, bound_version
from engine.routing.check import check_route
from tests.engine.runner_room import Log, Room, begun, crash, ends, open_room
from tests.engine.test_runner import step

CALL = {"steps": [step("a", "test.arm")], "outputs": {"v": "{{ steps.a.output }}"}}
FACTS = ("arm", "assigned_arm", "arm_probability", "route_revision", "served_by", "breaker")


async def put(room: Room, document: dict[str, Any]) -> None:
    versions = [room.registry.resolve(f"test.arm@{one}") for one in ("1.0.0", "2.0.0")]
    route = check_route(Route.model_validate(document), versions)
    await room.stores.routes.put(DEFAULT_WORKSPACE, "test.arm", route, "ann")
    assert room.parts.router is not None
    await room.parts.router.reload()


def traces(events: list[Any]) -> list[dict[str, Any]]:
    return [one.data["trace"] for one in events if "trace" in one.data]


async def test_the_arm_and_how_it_was_drawn_stand_in_the_trace(database: str, tmp_path: Path) -> None:
    async with open_room(database, tmp_path, whole=True) as room:
        await put(room, {"arms": [{"version": "1.0.0", "weight": 0.5}, {"version": "2.0.0", "weight": 0.5}]})
        served = []
        for n in range(12):
            state = await room.run(CALL)
            (trace,) = traces(await room.ended(state.record.id))
            served.append(state.outputs["v"])  # type: ignore[index, call-overload]
            assert trace["node_version"] == served[n]
            assert [trace[name] for name in ("arm_probability", "route_revision")] == [0.5, 1]
            assert (trace["arm"], trace["assigned_arm"], trace["served_by"]) == (served[n], served[n], "drawn")
        assert set(served) == {"1.0.0", "2.0.0"}


async def test_a_task_keeps_its_arm_over_retries_and_a_crash(database: str, tmp_path: Path) -> None:
    log = Log()
    log.broken = {"1.0.0", "2.0.0"}
    retry = {"max_attempts": 40, "initial": "20ms", "factor": 1, "on": ["upstream_5xx"]}
    spec = {"steps": [step("a", "test.arm", {"seconds": 0.01}, retry=retry)]}
    halves = {"arms": [{"version": "1.0.0", "weight": 0.5}, {"version": "2.0.0", "weight": 0.5}]}
    async with open_room(database, tmp_path, log=log, whole=True) as first:
        await put(first, halves)
        runs = [(await first.submit(spec)).state.record.id for _ in range(6)]
        await first.until(lambda: len(log.calls) > 12)
        await crash(first)
        async with open_room(database, tmp_path, log=log, exclusive=True, whole=True) as second:
            await put(second, {"arms": [{"version": "1.0.0", "weight": 0.1}, {"version": "2.0.0", "weight": 0.9}]})
            for run_id in runs:
                await second.taken_up(run_id)
            seen = len(log.calls)
            await second.until(lambda: len(log.calls) > seen + 12)
            log.broken.clear()
            used = set()
            for run_id in runs:
                events = await second.ended(run_id)
                assert events[-1].type is EventType.RUN_COMPLETED
                assert ends(events) == begun(events)
                facts = {tuple(one.get(name) for name in FACTS) for one in traces(events)}
                assert len(facts) == 1
                (drawn,) = facts
                assert drawn[2:4] == (0.5, 1)  # as it was drawn, whatever the route is now
                used.add(drawn[0])
    assert used == {"1.0.0", "2.0.0"}


async def test_the_fallback_takes_over_after_the_retries_also_after_a_crash(database: str, tmp_path: Path) -> None:
    log = Log()
    log.broken = {"1.0.0"}
    retry = {"max_attempts": 2, "initial": "10ms", "on": ["upstream_5xx"]}
    route = {"arms": [{"version": "1.0.0", "weight": 1, "fallback": "2.0.0"}, {"version": "2.0.0", "weight": 0}]}
    async with open_room(database, tmp_path, log=log, whole=True) as first:
        await put(first, route)
        state = await first.run({"steps": [step("a", "test.arm", retry=retry)]})
        assert (state.status, log.served) == (RunStatus.COMPLETED, ["1.0.0", "1.0.0", "2.0.0"])
        seen = traces(await first.ended(state.record.id))
        assert [one["served_by"] for one in seen] == ["drawn", "drawn", "fallback"]
        assert [(one["arm"], one["assigned_arm"]) for one in seen] == [
            ("1.0.0", "1.0.0"),
            ("1.0.0", "1.0.0"),
            ("2.0.0", "1.0.0"),
        ]
        log.served.clear()
        actor = await first.submit({"steps": [step("a", "test.arm", {"seconds": 0.3}, retry=retry)]})
        await first.until(lambda: log.served == ["1.0.0", "1.0.0", "2.0.0"])
        await actor.settled()
        await crash(first)
        async with open_room(database, tmp_path, log=log, exclusive=True, whole=True) as second:
            events = await second.ended(actor.state.record.id)
            assert events[-1].type is EventType.RUN_COMPLETED
            assert ends(events) == begun(events)
    assert log.served == ["1.0.0", "1.0.0", "2.0.0", "2.0.0"]


async def test_a_breaker_moves_the_traffic_and_one_probe_brings_it_back(database: str, tmp_path: Path) -> None:
    breaker = {"min_calls": 3, "failure_rate": 0.5, "window": "10s", "cooldown": "500ms"}
    arms = [{"version": "1.0.0", "weight": 1, "fallback": "2.0.0"}, {"version": "2.0.0", "weight": 0}]
    async with open_room(database, tmp_path, whole=True) as room:
        await put(room, {"arms": arms, "breaker": breaker})
        room.log.broken = {"1.0.0"}
        assert {(await room.run(CALL)).outputs["v"] for _ in range(6)} == {"2.0.0"}  # type: ignore[index, call-overload]
        assert room.log.served.count("1.0.0") == 3
        moved = traces(await room.ended((await room.run(CALL)).record.id))
        assert [(one["arm"], one["assigned_arm"], one["served_by"]) for one in moved] == [("2.0.0", "1.0.0", "breaker")]
        room.log.broken.clear()
        # What stops before a step does not use up the probe.
        actor = await room.submit(CALL, options=RunOptions(breakpoints=("a",)))
        await asyncio.sleep(0.6)
        broken = await room.submit(CALL, options=RunOptions(breakpoints=("a",)))
        await room.until(lambda: broken.state.status is RunStatus.WAITING)
        probe = traces(await room.ended((await room.run(CALL)).record.id))
        assert [(one["arm"], one["served_by"], one["breaker"]) for one in probe] == [("1.0.0", "probe", "half_open")]
        assert (await room.run(CALL)).outputs == {"v": "1.0.0"}
        for one in (actor, broken):
            await room.ask(one.state.record.id, Proceed)
            await room.ended(one.state.record.id)


async def test_a_step_that_waits_for_an_open_breaker_says_so_once(database: str, tmp_path: Path) -> None:
    breaker = {"min_calls": 1, "failure_rate": 0.5, "window": "10s", "cooldown": "2s"}
    async with open_room(database, tmp_path, whole=True) as room:
        await put(room, {"arms": [{"version": "1.0.0"}], "breaker": breaker})
        room.log.broken = {"1.0.0"}
        await room.run(CALL)
        slow = await room.submit({"steps": [step("a", "test.arm", {"seconds": 0.8})]})  # the least bad is tried once
        await room.until(lambda: len(room.log.served) == 2)
        waiting = await room.submit(CALL)
        await room.until(lambda: waiting.state.status is RunStatus.WAITING)
        assert (waiting.state.steps["a"].waiting or waiting.state.steps["a"].task.waiting or {})["reason"] == "breaker"
        room.log.broken.clear()
        events = await room.ended(waiting.state.record.id)
        assert events[-1].type is EventType.RUN_COMPLETED
        assert [one.type for one in events].count(EventType.STEP_WAITING) == 1
        await room.ended(slow.state.record.id)


async def test_a_step_may_spread_its_calls_and_a_binding_gives_its_own_output(database: str, tmp_path: Path) -> None:
    async with open_room(database, tmp_path, whole=True) as room:
        base = room.registry.resolve("test.work@1.0.0")
        told = {
            "name": "test.bound",
            "version": "1.0.0",
            "base": "test.work",
            "with": {"value": {"n": "{{ input.n }}"}},
            "output": {"twice": "{{ output.n * 2 }}", "was": "{{ input.n }}"},
        }
        room.registry.register(bound_version(BindingSpec.model_validate(told), base, NodeStatus.PRODUCTION))
        state = await room.run(
            {
                "steps": [
                    step("a", "test.arm", route={"weights": {"2.0.0": 1}}),
                    step("b", "test.bound", {"n": 4}),
                    step("bad", "test.bound", {"n": "x"}, on_error="continue"),
                ]
            }
        )
        assert state.steps["a"].output == "2.0.0"
        assert state.steps["b"].output == {"twice": 8, "was": 4}
        assert (state.steps["bad"].error or {})["class"] == "expression"
        found = {one["node"]: one for one in traces(await room.ended(state.record.id))}
        assert (found["test.arm"]["arm"], found["test.bound"]["node_version"]) == ("2.0.0", "1.0.0")


async def test_what_comes_from_the_cache_says_so_beside_its_arm(database: str, tmp_path: Path) -> None:
    async with open_room(database, tmp_path, whole=True) as room:
        await put(room, {"arms": [{"version": "2.0.0"}]})
        spec = {"steps": [step("a", "test.arm", cache={"ttl": "1h"})]}
        seen = [traces(await room.ended((await room.run(spec)).record.id))[0] for _ in range(2)]
        assert [one.get("cache_hit", False) for one in seen] == [False, True]
        assert [one["arm"] for one in seen] == ["2.0.0", "2.0.0"]
        assert len(room.log.served) == 1
