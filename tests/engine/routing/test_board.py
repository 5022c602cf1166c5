"""What happens while the store is slow, or away."""

import asyncio
import uuid

from core.errors import Unavailable
from core.route import Breaker, Opening
from engine.routing.board import Board
from engine.routing.breaker import BreakerState, Verdict
from tests.conftest import ManualClock

KEY = ("here", "payment.charge", "1.0.0")
RULE = Breaker(min_calls=2)


class Shelf:
    """A store that answers when it is let."""

    def __init__(self) -> None:
        self.opened: dict[tuple[str, str, str], Opening] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.away = 0

    async def load(self) -> list[Opening]:
        found = list(self.opened.values())
        await self.gate.wait()
        return found

    async def open(self, *key: object, again: bool) -> None:
        workspace, node, version, cooldown, calls, failures = key
        await self._answer()
        now = ManualClock().now()
        self.opened[KEY] = Opening(workspace, node, version, cooldown, cooldown, now, calls, failures)  # type: ignore[arg-type]

    async def close(self, *key: str) -> None:
        await self._answer()
        self.opened.pop(KEY, None)

    async def claim_probe(self, *key: object, early: bool) -> bool:
        await self._answer()
        return KEY in self.opened

    async def release_probe(self, workspace: str, node: str, version: str, claim: uuid.UUID) -> None:
        await self._answer()

    async def _answer(self) -> None:
        await self.gate.wait()
        if self.away:
            self.away -= 1
            raise Unavailable("away")


def fail(board: Board) -> None:
    for _ in range(2):
        board.note(KEY, RULE, Verdict.BAD)


async def test_what_is_not_stored_yet_is_newer_than_what_is_stored(manual_clock: ManualClock) -> None:
    shelf = Shelf()
    board = Board(shelf, manual_clock)
    shelf.gate.clear()
    before = asyncio.create_task(board.reload())  # asks before the breaker opens, hears after it
    await asyncio.sleep(0)
    fail(board)
    assert board.state(KEY) is BreakerState.OPEN
    during = asyncio.create_task(board.reload())
    await asyncio.sleep(0)
    shelf.gate.set()
    await asyncio.gather(before, during)
    assert board.state(KEY) is BreakerState.OPEN
    await board.aclose()
    assert KEY in shelf.opened
    await board.reload()
    assert board.state(KEY) is BreakerState.OPEN
    shelf.opened.clear()  # another process has closed it
    await board.reload()
    assert board.state(KEY) is BreakerState.CLOSED


async def test_a_store_that_is_away_is_asked_again(manual_clock: ManualClock) -> None:
    shelf = Shelf()
    shelf.away = 1
    board = Board(shelf, manual_clock)
    fail(board)
    async with asyncio.timeout(5):
        while KEY not in shelf.opened:
            assert board.state(KEY) is BreakerState.OPEN
            await asyncio.sleep(0.02)
    shelf.away = 1
    manual_clock.advance(RULE.cooldown)
    assert not await board.claim(KEY)  # nobody can know who has the right
    manual_clock.advance(1)
    assert await board.claim(KEY)
    assert not await board.claim(KEY)
    board.settle(KEY, RULE, Verdict.GOOD, doubles=True)
    assert board.state(KEY) is BreakerState.CLOSED
    await board.aclose()
    assert shelf.opened == {}


async def test_a_probe_in_flight_is_prolonged(manual_clock: ManualClock) -> None:
    shelf = Shelf()
    board = Board(shelf, manual_clock)
    fail(board)
    manual_clock.advance(RULE.cooldown)
    async with asyncio.timeout(5):
        while KEY not in shelf.opened:
            await asyncio.sleep(0.01)
    asked: list[uuid.UUID] = []
    claim_probe = shelf.claim_probe

    async def noted(*key: object, early: bool) -> bool:
        asked.append(key[3])  # type: ignore[arg-type]
        return await claim_probe(*key, early=early)

    shelf.claim_probe = noted  # type: ignore[method-assign]
    assert await board.claim(KEY)
    manual_clock.advance(6)
    board.settle(("here", "other", "1.0.0"), RULE, Verdict.GOOD, doubles=True)  # wakes the keeper
    async with asyncio.timeout(5):
        while len(asked) < 2:
            await asyncio.sleep(0.01)
    assert len(set(asked)) == 1
    await board.aclose()
