import asyncio
import uuid
from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import pytest

from core.ids import DEFAULT_WORKSPACE
from core.spec import StepRoute
from engine.routing.router import ArmChoice, ArmKept, ArmsBusy
from tests.engine.routing.room import NODE, NOON, Room, open_room, wanted
from tests.engine.routing.test_draw import within_binomial

COOLDOWN = 0.3
BREAKER = {"min_calls": 10, "failure_rate": 0.5, "window": "60s", "cooldown": COOLDOWN, "max_cooldown": "1s"}
HALVES = {"arms": [{"version": "stripe", "weight": 50}, {"version": "adyen", "weight": 50}]}
GUARDED = {
    "arms": [{"version": "stripe", "weight": 1, "fallback": "adyen"}, {"version": "adyen", "weight": 0}],
    "breaker": BREAKER,
}


async def until(condition: Any, seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.01)


async def fail(room: Room, calls: int = 10, router: int = 0) -> None:
    """Half of the calls fail."""
    for n in range(calls):
        choice = await room.choice(str(n), router)
        room.record(choice, "upstream_5xx" if n % 2 else None, router)


async def open_breakers(room: Room) -> int:
    return len(await room.breakers.load())


async def saved(room: Room, count: int) -> None:
    async def reached() -> bool:
        return await open_breakers(room) == count

    await until(reached)
    await room.reload()


async def test_weights_are_kept_and_their_probability_is_told(database: str) -> None:
    async with open_room(database) as room:
        assert not room.router.routed(DEFAULT_WORKSPACE, NODE)
        assert await room.router.choose(wanted()) is None
        revision = await room.put({"arms": [{"version": "1.0.0", "weight": 90}, {"version": "2.0.0", "weight": 10}]})
        assert room.router.routed(DEFAULT_WORKSPACE, NODE)
        assert not room.router.routed("elsewhere", NODE)
        choices = [await room.choice(f"run-{n}") for n in range(20_000)]
        drawn = Counter(one.version for one in choices)
        assert within_binomial(drawn["2.0.0"], 20_000, 0.1)
        assert {(one.version, one.probability) for one in choices} == {("1.0.0", 0.9), ("2.0.0", 0.1)}
        assert {(one.assigned == one.version, one.revision, one.served_by, one.breaker) for one in choices} == {
            (True, revision, "drawn", "")
        }
        assert choices[5].trace() == {
            "arm": "stripe",
            "arm_probability": 0.9,
            "route_revision": 1,
            "assigned_arm": "stripe",
            "served_by": "drawn",
            "breaker": "",
        }


async def test_a_task_keeps_its_arm_and_other_runs_see_the_change(database: str) -> None:
    async with open_room(database, processes=2) as room:
        await room.put(HALVES)
        before = {str(n): await room.choice(str(n)) for n in range(50)}
        assert before == {str(n): await room.choice(str(n), router=1) for n in range(50)}
        await room.put({"arms": [{"version": "stripe", "weight": 0}, {"version": "adyen", "weight": 1}]})
        for unit, choice in before.items():
            again = ArmChoice.from_json(choice.to_json()).kept
            assert again == ArmKept(choice.assigned, 0.5, 1)
            kept = await room.choice(unit, router=1, kept=again)
            assert (kept.version, kept.probability, kept.revision) == (choice.version, 0.5, 1)
            fresh = await room.choice(unit, router=1)
            assert (fresh.version, fresh.probability, fresh.revision) == ("2.0.0", 1.0, 2)
        # An arm that is gone is given up.
        await room.put({"arms": [{"version": "adyen"}]})
        assert (await room.choice(kept=ArmKept("1.0.0", 0.5, 1))).revision == 3
        await room.routes.put(DEFAULT_WORKSPACE, NODE, None, "ann")
        await room.reload()
        assert not room.router.routed(DEFAULT_WORKSPACE, NODE)


@pytest.mark.parametrize(
    ("rule", "more", "held"),
    [
        ("context.country == 'DE'", {"context": {"country": "DE"}}, True),
        ("context.country == 'DE'", {"context": {"country": "FR"}}, False),
        ("context.country == 'DE'", {}, False),  # no such key: the rule does not hold
        ("input.amount > 100", {"input": {"amount": 101}}, True),
        ("features['body.x'] > 9.0 && features.kind == 'a'", {"features": {"body.x": 10.0, "kind": "a"}}, True),
        ("hour == 12 && weekday == 5", {}, True),
        ("hour == 12 && weekday == 5", {"now": NOON + timedelta(days=1)}, False),
        ("input.amount", {"input": {"amount": 1}}, False),  # not a truth value
    ],
)  # fmt: skip
async def test_rules(database: str, rule: str, more: dict[str, Any], held: bool) -> None:
    async with open_room(database) as room:
        await room.put({**HALVES, "rules": [{"when": rule, "weights": {"adyen": 1}}]})
        served = {(one.version, one.probability) for one in [await room.choice(str(n), **more) for n in range(40)]}
        assert served == ({("2.0.0", 1.0)} if held else {("1.0.0", 0.5), ("2.0.0", 0.5)})


async def test_floor_range_and_override(database: str) -> None:
    async with open_room(database) as room:
        await room.put({"arms": [{"version": "1.0.0", "weight": 1}, {"version": "2.0.0", "weight": 0}]})
        assert (await room.choice(within="^1")).probability == 1.0
        assert await room.router.choose(wanted(within="^2")) is None
        own = StepRoute(weights={"adyen": 0.25, "stripe": 0.75})
        served = Counter([(await room.choice(str(n), override=own)).version for n in range(2_000)])
        assert within_binomial(served["2.0.0"], 2_000, 0.25)
        await room.put(
            {"arms": [{"version": "1.0.0", "weight": 0.99}, {"version": "2.0.0", "weight": 0.01}], "floor": 0.1}
        )
        assert {(await room.choice(str(n))).probability for n in range(100)} == {0.9, 0.1}
    async with open_room(database) as room:  # a step's own weights need no route
        await room.routes.put(DEFAULT_WORKSPACE, NODE, None, "ann")
        await room.reload()
        choice = await room.choice(override=StepRoute(weights={"adyen": 100}))
        assert (choice.version, choice.arm, choice.revision, choice.probability) == ("2.0.0", "adyen", 0, 1.0)


async def test_what_arms_say_about_attempts(database: str) -> None:
    arm = {"version": "1.0.0", "timeout": "2s", "retry": {"max_attempts": 4, "on": ["network"]}, "fallback": "2.0.0"}
    async with open_room(database) as room:
        await room.put({"arms": [arm], "timeout_jitter": 0.5})
        choices = [await room.choice(str(n)) for n in range(50)]
        timeouts = {one.timeout for one in choices}
        assert len(timeouts) > 40
        assert all(timeout is not None and 2 <= timeout <= 3 for timeout in timeouts)
        again = ArmChoice.from_json(choices[0].to_json())
        assert again == choices[0]
        assert again.retry is not None
        assert "on" in again.retry.model_fields_set
        await room.put({"arms": [arm], "timeout_jitter": 0})
        assert (await room.choice()).timeout == 2


async def test_the_fallback_chain(database: str) -> None:
    async with open_room(database) as room:
        await room.put(
            {
                "arms": [
                    {"version": "1.0.0", "weight": 1, "fallback": "2.0.0"},
                    {"version": "2.0.0", "weight": 0, "fallback": "3.0.0"},
                ]
            }
        )
        served, failed = [], []
        kept = None
        while (choice := await room.router.choose(wanted(failed=tuple(failed), kept=kept))) is not None:
            served.append((choice.version, choice.served_by, choice.assigned, choice.next_fallback))
            failed.append(choice.version)
            kept = choice.kept
        assert served == [
            ("1.0.0", "drawn", "1.0.0", "2.0.0"),
            ("2.0.0", "fallback", "1.0.0", "3.0.0"),
            ("3.0.0", "fallback", "1.0.0", None),
        ]
        # Arms that are not declared fallbacks do not take over what has failed.
        await room.put(HALVES)
        choice = await room.choice()
        assert choice.next_fallback is None
        assert await room.router.choose(wanted(failed=(choice.version,), kept=choice.kept)) is None


async def test_the_breaker_opens_and_traffic_moves(database: str) -> None:
    async with open_room(database, processes=2) as room:
        await room.put(GUARDED)
        await fail(room)
        choice = await room.choice()
        assert (choice.version, choice.assigned, choice.served_by, choice.breaker) == (
            "2.0.0",
            "1.0.0",
            "breaker",
            "closed",
        )
        assert choice.next_fallback is None
        await saved(room, 1)
        assert room.states(1) == {"1.0.0": "open", "2.0.0": "closed"}
        assert (await room.choice(router=1)).served_by == "breaker"
        state = room.router.state(DEFAULT_WORKSPACE, NODE)[0]
        assert (state.calls, state.failures) == (10, 5)
        assert isinstance(state.until, datetime)


async def test_what_does_not_count(database: str) -> None:
    async with open_room(database) as room:
        await room.put(GUARDED)
        for _ in range(30):
            room.record(await room.choice(), "invalid_input")
            room.record(await room.choice(), "upstream_4xx")
            room.record(await room.choice(), "timeout", outcome_counts=False)
        assert room.states() == {"1.0.0": "closed", "2.0.0": "closed"}
        assert room.router.state(DEFAULT_WORKSPACE, NODE)[0].calls == 0


async def test_one_probe_over_all_processes_closes_it(database: str) -> None:
    async with open_room(database, processes=4) as room:
        await room.put(GUARDED)
        await fail(room)
        await saved(room, 1)
        await asyncio.sleep(COOLDOWN)
        assert set(room.states().values()) == {"half_open", "closed"}
        found = await asyncio.gather(*(room.choice(str(n), router=n % 4) for n in range(80)))
        probes = [(index % 4, one) for index, one in enumerate(found) if one.served_by == "probe"]
        assert len(probes) == 1
        router, probe = probes[0]
        assert (probe.version, probe.assigned, probe.breaker) == ("1.0.0", "1.0.0", "half_open")
        assert {one.version for one in found if one is not probe} == {"2.0.0"}
        await asyncio.sleep(0.25)  # those who were refused may ask again
        assert [(await room.choice(router=n)).version for n in range(4)] == ["2.0.0"] * 4
        room.record(probe, None, router)
        assert (await room.choice(router=router)).served_by == "drawn"
        await saved(room, 0)
        assert {(await room.choice(router=n)).version for n in range(4)} == {"1.0.0"}


async def test_the_cooldown_doubles_while_probes_fail(database: str) -> None:
    async with open_room(database) as room:
        await room.put(GUARDED)
        await fail(room)
        await saved(room, 1)
        cooldowns = []
        for _ in range(3):
            cooldowns.append((await room.breakers.load())[0].cooldown)

            async def probing() -> bool:
                choice = await room.choice()
                if choice.served_by == "probe":
                    room.record(choice, "network")
                return choice.served_by == "probe"

            await until(probing)
            await asyncio.sleep(0.05)
        assert cooldowns == [COOLDOWN, COOLDOWN * 2, 1.0]


async def test_a_probe_that_says_nothing_gives_its_right_back(database: str) -> None:
    async with open_room(database, processes=2) as room:
        await room.put(GUARDED)
        await fail(room)
        await saved(room, 1)
        await asyncio.sleep(COOLDOWN)
        probe = await room.choice()
        assert probe.served_by == "probe"
        room.record(probe, "cancelled")

        async def again() -> bool:
            return (await room.choice(router=1)).served_by == "probe"

        await until(again)


async def test_a_probe_of_a_dead_process_is_free_again(database: str) -> None:
    async with open_room(database, processes=2) as room:
        await room.put(GUARDED)
        await fail(room)
        await saved(room, 1)
        await asyncio.sleep(COOLDOWN)
        key = (DEFAULT_WORKSPACE, NODE, "1.0.0")
        claims = [uuid.UUID(int=n) for n in range(2)]
        assert await room.breakers.claim_probe(*key, claims[0], 0.2, early=False)
        assert not await room.breakers.claim_probe(*key, claims[1], 0.2, early=True)
        assert await room.breakers.claim_probe(*key, claims[0], 0.2, early=False)  # prolonged
        await asyncio.sleep(0.25)
        other = await room.choice(router=1)
        assert other.served_by == "probe"


async def test_all_open_the_least_bad_is_tried_one_at_a_time(database: str) -> None:
    async with open_room(database, processes=2) as room:
        slow = {**BREAKER, "cooldown": "30s", "max_cooldown": "60s"}
        await room.put({**HALVES, "breaker": slow})
        n = 0
        while set(room.states().values()) != {"open"}:
            n += 1
            choice = await room.choice(str(n))
            bad = choice.version == "1.0.0" or n % 3 > 0
            room.record(choice, "network" if bad else None)
        await saved(room, 2)
        least = await room.choice()
        assert (least.version, least.served_by, least.breaker) == ("2.0.0", "least_bad", "open")
        for router in range(2):
            with pytest.raises(ArmsBusy) as caught:
                await room.choice(router=router)
            assert caught.value.retry_after == 1.0
        room.record(least, "network")

        async def tried() -> bool:
            try:
                choice = await room.choice(router=1)
            except ArmsBusy:
                return False
            room.record(choice, None, 1)
            return choice.served_by == "least_bad"

        await until(tried)
        await saved(room, 1)
        assert room.states() == {"1.0.0": "open", "2.0.0": "closed"}
        assert {(await room.choice(str(n))).version for n in range(20)} == {"2.0.0"}
