import asyncio
from collections.abc import Sequence

import pytest

from engine.remote.batch import Batch
from engine.remote.slots import Slots


async def test_what_comes_meanwhile_goes_together() -> None:
    calls: list[list[int]] = []
    gate = asyncio.Event()

    async def act(items: Sequence[int]) -> list[int]:
        calls.append(list(items))
        await gate.wait()
        return [item * 2 for item in items]

    batch = Batch(act, most=3)
    futures = [batch.put(0)]
    await asyncio.sleep(0)
    futures += [batch.put(n) for n in range(1, 6)]
    futures[2].cancel()
    gate.set()
    await batch.settled()
    assert calls == [[0], [1, 2, 3], [4, 5]]
    assert [one.result() for one in futures if not one.cancelled()] == [0, 2, 6, 8, 10]


async def test_a_fault_goes_to_all_and_ends_nothing() -> None:
    async def act(items: Sequence[int]) -> list[int]:
        if 0 in items:
            raise ValueError("no")
        return list(items)

    batch = Batch(act)
    first, second = batch.put(0), batch.put(1)
    for one in (first, second):
        with pytest.raises(ValueError, match="no"):
            await one
    assert await batch.put(2) == 2


async def test_slots_are_counted_and_closed() -> None:
    slots = Slots(2)
    assert await slots.take()
    assert await slots.take()
    impatient, third, fourth = (asyncio.create_task(slots.take()) for _ in range(3))
    await asyncio.sleep(0)
    slots.give()
    impatient.cancel()  # the place that it was given goes on to the third
    await asyncio.sleep(0.01)
    assert (third.done(), fourth.done(), slots.used) == (True, False, 2)
    slots.close()
    assert await fourth is False
    assert (await slots.take(), slots.used) == (False, 2)
