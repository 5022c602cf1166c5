"""Whoever asks something of a run gets an answer, and whoever has left does no harm."""

import pytest

from core.errors import Conflict, RefluxError, Unavailable
from engine.inbox import Inbox


@pytest.mark.parametrize("error", [None, Conflict("it has ended")])
async def test_who_asked_may_have_left(error: RefluxError | None) -> None:
    inbox, done = Inbox(), []

    def act() -> None:
        done.append("asked")
        if error is not None:
            raise error

    inbox.ask(act, lambda: None).cancel()
    inbox.post(lambda: done.append("next"))
    inbox.perform()
    assert done == ["asked", "next"]


async def test_what_nobody_will_perform_is_refused() -> None:
    inbox, done = Inbox(), []
    performed = inbox.ask(lambda: done.append("performed"), lambda: None)
    inbox.perform()
    waiting, left = (inbox.ask(lambda: done.append("late"), lambda: None) for _ in range(2))
    left.cancel()
    inbox.close()
    inbox.perform()
    assert await performed is None
    with pytest.raises(Unavailable):
        await waiting
    assert done == ["performed"]
