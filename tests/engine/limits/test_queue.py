"""What one process wants of all scopes, without any database."""

from uuid import UUID

from core.ids import OwnerId, RunId
from core.limit import Limit, OwnedAsk, ScopeAnswer
from engine.limits.queue import Queue
from tests.engine.limits.room import ask

OWNER = OwnerId(UUID(int=1))
ASKED = OwnedAsk(ask(RunId(UUID(int=2)), "h", scope="s"), OWNER)


def granted(seen: int = 7) -> ScopeAnswer:
    return ScopeAnswer("s", seen, True, Limit(1), (("h", 0.0),))


async def test_an_answer_is_not_for_who_has_asked_since() -> None:
    queue = Queue()
    first = queue.add(ASKED)
    under_way = queue.take(False)
    queue.drop(first)
    second = queue.add(ASKED)
    queue.answered(under_way, [granted()])
    assert not second.heard.done()
    (turn,) = queue.take(False)
    assert (turn.back, turn.asks) == ((("h", OWNER),), (ASKED,))  # given back, then asked for again
    queue.answered([turn], [granted(8)])
    assert second.granted.result().holds
    assert not queue.restless
    assert queue.take(True) == []


async def test_what_may_not_have_been_done_is_said_again() -> None:
    queue = Queue()
    waiter = queue.add(ASKED)
    queue.give_back("s", "old", OWNER)
    under_way = queue.take(False)
    queue.give_back("t", "other", OWNER)
    queue.again(under_way)
    turns = {turn.scope: turn for turn in queue.take(False)}
    assert turns["s"].back == (("old", OWNER),)
    assert turns["s"].asks == (ASKED,)
    assert turns["t"].back == (("other", OWNER),)
    assert not queue.owing
    queue.drop(waiter)
    assert queue.owing


async def test_all_scopes_have_their_turn() -> None:
    queue = Queue()
    run = RunId(UUID(int=2))
    for n in range(450):
        queue.add(OwnedAsk(ask(run, "h", scope=f"s{n}"), OWNER))
    said = [len(queue.take(False)) for _ in range(3)]
    assert said[0] == 200
    polled = {turn.scope for _ in range(3) for turn in queue.take(True)}
    assert len(polled) == 450
