"""The breakers of all arms as this process sees them, kept in step with those of the others.

How often calls fail is counted in each process for itself. That a breaker is open, and who makes its one probe, is
shared through the store. What happens here counts here at once; the store learns of it a moment later.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

import structlog

from core.clock import Clock
from core.errors import RefluxError
from core.route import Breaker
from engine.routing.breaker import BreakerState, Circuit, Open, Verdict
from engine.routing.ports import BreakerStore

_log = structlog.get_logger(__name__)

Key: TypeAlias = tuple[str, str, str]
"""Workspace, node, version."""

PROBE_LEASE = 15.0
"""Seconds after which the probe of a process that has died is anybody's again."""

_RENEW = 5.0
_LONGEST_PROBE = 3600.0
_ASK_AGAIN = 0.2
"""Seconds between two questions for a probe that somebody else has."""
_TRY_AGAIN = 1.0

_Save: TypeAlias = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class _Claim:
    id: uuid.UUID
    since: float


class Board:
    """See the module."""

    def __init__(self, store: BreakerStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._circuits: dict[Key, Circuit] = {}
        self._claims: dict[Key, _Claim] = {}
        self._ask_at: dict[Key, float] = {}
        self._unsaved: dict[Key, _Save] = {}
        self._changed: dict[Key, int] = {}
        self._changes = 0
        self._wake = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    def circuit(self, key: Key) -> Circuit:
        """The breaker of an arm; a new one is closed."""
        return self._circuits.setdefault(key, Circuit())

    def state(self, key: Key) -> BreakerState:
        """What the breaker of an arm lets through now."""
        circuit = self._circuits.get(key)
        return BreakerState.CLOSED if circuit is None else circuit.state(self._clock.monotonic())

    async def claim(self, key: Key, early: bool = False) -> bool:
        """Get the right to the one call that an open breaker lets through; `early`: before the cooldown is over.

        Who gets it must `settle` it.
        """
        now = self._clock.monotonic()
        if key in self._claims or self._ask_at.get(key, now) > now:
            return False
        claim = _Claim(self._clock.new_id(), now)
        # Noted before the question is asked: nobody else here need ask it meanwhile.
        self._claims[key] = claim
        granted = False
        try:
            granted = await self._store.claim_probe(*key, claim.id, PROBE_LEASE, early=early)
        except RefluxError as error:
            _log.warning("a probe cannot be claimed", node=key[1], version=key[2], detail=error.detail)
        finally:
            if not granted:
                self._claims.pop(key, None)
                self._ask_at[key] = self._clock.monotonic() + _ASK_AGAIN
        if granted:
            self._tend()
        return granted

    def note(self, key: Key, rule: Breaker, said: Verdict) -> None:
        """Count an ordinary call."""
        if said is Verdict.NOTHING:
            return
        circuit = self.circuit(key)
        if circuit.note(rule, said is Verdict.BAD, self._clock.monotonic()):
            assert circuit.opened is not None
            _log.warning("breaker opened", node=key[1], version=key[2], failures=circuit.opened.failures)
            self._save_open(key, circuit.opened, again=False)

    def settle(self, key: Key, rule: Breaker | None, said: Verdict, doubles: bool) -> None:
        """Take the result of the one call that was let through.

        Args:
            rule: None when the route has no breaker any more.
            doubles: whether a failure lengthens the cooldown.
        """
        claim = self._claims.pop(key, None)
        circuit = self.circuit(key)
        if said is Verdict.GOOD:
            circuit.close()
            _log.info("breaker closed", node=key[1], version=key[2])
            self._save(key, lambda: self._store.close(*key))
        elif said is Verdict.BAD and doubles and rule is not None and circuit.opened is not None:
            circuit.probed(rule, True, self._clock.monotonic())
            self._save_open(key, circuit.opened, again=True)
        elif claim is not None:
            self._save(key, lambda: self._store.release_probe(*key, claim.id))

    async def reload(self) -> None:
        """Take over what other processes have opened and closed. Raises Unavailable."""
        before = self._changes
        stored = await self._store.load()
        now = self._clock.monotonic()
        opened = {
            (one.workspace, one.node, one.version): Open(now + one.remaining, one.cooldown, one.calls, one.failures)
            for one in stored
        }
        for key in [*opened, *self._circuits]:
            # What has changed here since the question was asked, or is not stored yet, is newer than the answer.
            if key not in self._unsaved and self._changed.get(key, 0) <= before:
                self._take_over(self.circuit(key), opened.get(key))

    async def aclose(self) -> None:
        """Store what is not stored yet, if that can be done at once."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None
        try:
            async with asyncio.timeout(_TRY_AGAIN):
                await self._store_changes()
        except (TimeoutError, RefluxError):
            _log.warning("changes of breakers are lost", breakers=len(self._unsaved))

    def _take_over(self, circuit: Circuit, opened: Open | None) -> None:
        if opened is None:
            if circuit.opened is not None:
                circuit.close()
        elif circuit.opened is None:
            circuit.open(opened)
        else:
            circuit.opened = opened

    def _save_open(self, key: Key, opened: Open, again: bool) -> None:
        self._save(key, lambda: self._store.open(*key, opened.cooldown, opened.calls, opened.failures, again=again))

    def _save(self, key: Key, save: _Save) -> None:
        self._unsaved[key] = save
        self._mark(key)
        self._tend()

    def _mark(self, key: Key) -> None:
        self._changes += 1
        self._changed[key] = self._changes

    def _tend(self) -> None:
        self._wake.set()
        if self._keeper is None or self._keeper.done():
            self._keeper = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        """Store changes and prolong probes; ends when there are neither."""
        while self._unsaved or self._claims:
            self._wake.clear()
            try:
                await self._store_changes()
                await self._renew()
            except RefluxError as error:
                _log.warning("breakers cannot be stored", detail=error.detail)
                await asyncio.sleep(_TRY_AGAIN)
                continue
            if self._claims and not self._unsaved:
                try:
                    async with asyncio.timeout(_RENEW):
                        await self._wake.wait()
                except TimeoutError:
                    pass

    async def _store_changes(self) -> None:
        while self._unsaved:
            key, save = next(iter(self._unsaved.items()))
            await save()
            self._mark(key)
            if self._unsaved.get(key) is save:
                del self._unsaved[key]

    async def _renew(self) -> None:
        now = self._clock.monotonic()
        for key, claim in list(self._claims.items()):
            if now - claim.since > _LONGEST_PROBE:
                del self._claims[key]
            elif now - claim.since >= _RENEW:
                await self._store.claim_probe(*key, claim.id, PROBE_LEASE, early=True)
