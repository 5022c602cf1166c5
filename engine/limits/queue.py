"""What one process wants of all scopes: asks that are new, asks that wait, and slots to give back. No IO."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from core.errors import RefluxError
from core.ids import OwnerId
from core.limit import OwnedAsk, ScopeAnswer, ScopeTurn
from engine.limits.scope import told

_SCOPES_AT_ONCE = 200
"""Scopes in one turn: it keeps their rows locked until it commits."""
_ONLY_ASKED = 2**62
"""A `seen` that no grant is above."""


@dataclass(frozen=True, slots=True)
class Granted:
    """A slot.

    Attributes:
        delay: seconds after which it may be used; the turn of a rate may lie a little ahead.
        holds: it is to be given back.
        reason: why it is delayed.
    """

    delay: float
    holds: bool
    reason: tuple[str, str]


class Waiter:
    """Somebody who has asked.

    Attributes:
        heard: resolved by the first answer; with a reason when there is need to wait.
        granted: resolved with the slot.
        sent: the database may know of it.
    """

    __slots__ = ("asked", "granted", "heard", "sent")

    def __init__(self, asked: OwnedAsk) -> None:
        loop = asyncio.get_running_loop()
        self.asked = asked
        self.heard: asyncio.Future[tuple[str, str] | None] = loop.create_future()
        self.granted: asyncio.Future[Granted] = loop.create_future()
        self.sent = False


class Queue:
    """See the module."""

    def __init__(self) -> None:
        self._waiters: dict[str, dict[str, list[Waiter]]] = {}
        self._asks: dict[str, dict[str, OwnedAsk]] = {}
        self._backs: dict[str, dict[tuple[str, OwnerId], None]] = {}
        self._seen: dict[str, int] = {}
        self._poked: set[str] = set()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(len(one) for holders in self._waiters.values() for one in holders.values())

    @property
    def restless(self) -> bool:
        """Whether anybody waits."""
        return bool(self._waiters)

    @property
    def owing(self) -> bool:
        """Whether something is to be given back."""
        return bool(self._backs)

    def add(self, asked: OwnedAsk) -> Waiter:
        """Ask."""
        ask = asked.ask
        waiter = Waiter(asked)
        self._waiters.setdefault(ask.scope, {}).setdefault(ask.holder, []).append(waiter)
        self._asks.setdefault(ask.scope, {})[ask.holder] = asked
        return waiter

    def drop(self, waiter: Waiter) -> None:
        """Ask no more; what was granted meanwhile is given back."""
        ask = waiter.asked.ask
        holders = self._waiters.get(ask.scope, {})
        same = holders.get(ask.holder, [])
        if waiter in same:
            same.remove(waiter)
            if not same:
                del holders[ask.holder]
                self._asks.get(ask.scope, {}).pop(ask.holder, None)
            self._tidy(ask.scope)
        if waiter.sent and not same:
            self.give_back(ask.scope, ask.holder, waiter.asked.owner)

    def give_back(self, scope: str, holder: str, owner: OwnerId) -> None:
        """Give a slot back, or a place in the queue."""
        self._backs.setdefault(scope, {})[holder, owner] = None

    def poke(self, scopes: Iterable[str]) -> None:
        """There may be room in these."""
        self._poked.update(scope for scope in scopes if scope in self._waiters)

    def take(self, everything: bool) -> list[ScopeTurn]:
        """What is to be said now. With `everything` the scopes that somebody waits for are asked about, too."""
        scopes = dict.fromkeys([*self._backs, *self._asks, *self._poked])
        if everything:
            # Whoever is asked about goes to the end, so that the next time the others have their turn.
            for scope in list(self._waiters)[:_SCOPES_AT_ONCE]:
                scopes[scope] = None
                self._waiters[scope] = self._waiters.pop(scope)
        return [self._turn(scope) for scope in list(scopes)[:_SCOPES_AT_ONCE]]

    def _turn(self, scope: str) -> ScopeTurn:
        self._poked.discard(scope)
        asks = self._asks.pop(scope, {})
        for holder in asks:
            for waiter in self._waiters[scope][holder]:
                waiter.sent = True
        return ScopeTurn(
            scope, self._seen.get(scope, _ONLY_ASKED), tuple(self._backs.pop(scope, {})), tuple(asks.values())
        )

    def again(self, turns: Sequence[ScopeTurn]) -> None:
        """Nobody knows whether this was done: give back again, and ask again for all who wait."""
        for turn in turns:
            self._backs[turn.scope] = {**dict.fromkeys(turn.back), **self._backs.get(turn.scope, {})}
            if not self._backs[turn.scope]:
                del self._backs[turn.scope]
        self._seen.clear()
        for scope, holders in self._waiters.items():
            self._asks[scope] = {holder: same[-1].asked for holder, same in holders.items()}

    def answered(self, turns: Sequence[ScopeTurn], answers: Sequence[ScopeAnswer]) -> None:
        """Tell those who wait."""
        asked = {turn.scope: turn.asks for turn in turns}
        for answer in answers:
            self._seen[answer.scope] = answer.seen
            reason = told(answer.scope, answer.limit, answer.full)
            holders = self._waiters.get(answer.scope, {})
            for holder, delay in answer.granted:
                # Who has asked under the same name since then gets an answer of its own.
                same = holders.pop(holder, [])
                for waiter in same:
                    if waiter.sent:
                        _settle(waiter, Granted(delay, answer.limit.holds, reason))
                if later := [waiter for waiter in same if not waiter.sent]:
                    holders[holder] = later
            for one in asked[answer.scope]:
                for waiter in holders.get(one.ask.holder, ()):
                    if waiter.sent and not waiter.heard.done():
                        waiter.heard.set_result(reason)
            self._tidy(answer.scope)

    def refused(self, scope: str, error: RefluxError) -> None:
        """The database does not take what is asked for here, whenever it is asked."""
        for same in self._waiters.pop(scope, {}).values():
            for waiter in same:
                for future in (waiter.heard, waiter.granted):
                    if not future.done():
                        future.set_exception(error)
                        future.exception()  # only one of the two is waited for
        self._asks.pop(scope, None)
        self._tidy(scope)

    def _tidy(self, scope: str) -> None:
        if not self._waiters.get(scope):
            self._waiters.pop(scope, None)
            self._seen.pop(scope, None)
            self._poked.discard(scope)
        if not self._asks.get(scope):
            self._asks.pop(scope, None)


def _settle(waiter: Waiter, granted: Granted) -> None:
    if not waiter.heard.done():
        waiter.heard.set_result(None)
    if not waiter.granted.done():
        waiter.granted.set_result(granted)
