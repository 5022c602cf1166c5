"""The cache of step results in one process. Of equal calls at the same time one is made; the others get its result.

Who asks is told either the result (Hit) or to make the call (Flight). Here those who ask wait for the flight of this
process by a future; a flight of another process is looked at again and again.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from core.clock import Clock
from core.errors import RefluxError, Unavailable
from core.ids import OwnerId, RunId
from core.json import JsonValue, decode
from engine.cache.gate import Gate
from engine.cache.ports import CacheAsk, CacheStore, Stored

_log = structlog.get_logger(__name__)

LARGEST_BYTES = 8 * 1024 * 1024
"""Results with a longer JSON text are not stored. From 32 KB on the text lies in the object store, where the journal
has put it anyway."""
_POLL_SECONDS = (0.05, 0.1, 0.15, 0.25)
_DOUBT_SECONDS = 2.0
"""After so long it is asked whether a flight of this process is still one."""
_LOOSE_SECONDS = 0.5
_EXPIRE_SECONDS = 60.0

OnWait = Callable[[str, str], None]
"""Told why something waits: the reason (`cache`) and a short sentence."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A result that need not be made.

    Attributes:
        encoded: `output` as JSON text.
        run_id: the run that made it.
        age_seconds: since it was stored.
    """

    output: JsonValue
    encoded: bytes
    run_id: RunId
    age_seconds: float


class Flight:
    """The call is the asker's to make. One of the two methods must be called, whatever becomes of it."""

    def __init__(self, cache: "StepCache", ask: CacheAsk, owner: OwnerId, gate: Gate[Hit]) -> None:
        self._cache = cache
        self.ask = ask
        self.owner = owner
        self.gate = gate
        self._over = False

    async def land(self, encoded: bytes) -> None:
        """Store the result (JSON text) and hand it to those who wait. Never fails: without the database it is not
        stored."""
        if not self._over:
            self._over = True
            await self._cache.landed(self, encoded)

    async def abandon(self) -> None:
        """There is no result: one of those who wait makes the call. Never fails. Does nothing after `land`."""
        if not self._over:
            self._over = True
            await self._cache.abandoned(self)


class StepCache:
    """See the module.

    Attributes:
        owner: the engine's present life; None while it has none.
        hits, misses: how often a result was there, and was not.
    """

    def __init__(self, store: CacheStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._gates: dict[tuple[str, str], Gate[Hit]] = {}
        self._loose: list[Flight] = []
        self._too_large: set[str] = set()
        self._task: asyncio.Task[None] | None = None
        self.owner: OwnerId | None = None
        self.hits = 0
        self.misses = 0

    def start(self) -> None:
        """Begin to keep house."""
        self._task = asyncio.create_task(self._keep_house())

    async def aclose(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
            await self._end_loose()

    async def board(self, ask: CacheAsk, on_wait: OnWait) -> Hit | Flight:
        """The result, or the flight. Waits while an equal call is under way.

        Args:
            on_wait: called at most once, when it has to wait.

        Raises:
            Unavailable: the database does not answer, or this engine has no life at this moment.
        """
        owner = self.owner
        if owner is None:
            raise Unavailable("the engine is starting or stopping; try again")
        told = False

        def tell() -> None:
            nonlocal told
            if not told:
                told = True
                on_wait("cache", "an equal call is under way; its result will be used")

        while True:
            gate = self._gates.get((ask.workspace, ask.key))
            found: Hit | Flight | None
            if gate is None or (gate.flying and gate.holder == ask.holder):
                found = await self._lead(ask, owner, tell)
            else:
                found = await self._follow(gate, ask, owner, tell)
            if isinstance(found, Hit) and found.age_seconds <= ask.ttl:
                self.hits += 1
                return found
            if isinstance(found, Flight):
                self.misses += 1
                return found

    # --- flights -------------------------------------------------------------------------------------------------

    async def landed(self, flight: Flight, encoded: bytes) -> None:
        """See `Flight.land`."""
        ask = flight.ask
        hit: Hit | None = self._hit(encoded, ask.run_id, 0.0)
        try:
            if len(encoded) > LARGEST_BYTES:
                self._tell_too_large(ask, len(encoded))
                await self._end(flight)
            elif not await self._store.land(ask, flight.owner, encoded, self._clock.now()):
                hit = None  # called off: what comes now may be out of date
        except RefluxError as error:
            _log.warning("a result was not cached", node=ask.node, detail=error.detail)
            self._loose.append(flight)
        except BaseException:
            hit = None
            self._loose.append(flight)
            raise
        finally:
            self._close(flight.ask, flight.gate, hit)

    async def abandoned(self, flight: Flight) -> None:
        """See `Flight.abandon`."""
        try:
            await self._end(flight)
        finally:
            self._close(flight.ask, flight.gate, None)

    async def _end(self, flight: Flight) -> None:
        try:
            await self._store.abandon(flight.ask, flight.owner)
        except Unavailable:
            self._loose.append(flight)
        except BaseException:
            self._loose.append(flight)
            raise

    # --- those who ask -------------------------------------------------------------------------------------------

    async def _lead(self, ask: CacheAsk, owner: OwnerId, tell: Callable[[], None]) -> Hit | Flight:
        """Ask the database, for all here who ask the same."""
        gate: Gate[Hit] = Gate(ask.holder)
        gate.listen(tell)
        before = self._gates.get((ask.workspace, ask.key))
        self._gates[ask.workspace, ask.key] = gate
        if before is not None:
            before.close(None)
        try:
            stored = await self._store.look(ask, self._clock.now())
            hit = self._of(stored) if stored else await self._take_off(ask, owner, gate)
        except BaseException:
            self._close(ask, gate, None)
            raise
        if hit is None:
            gate.fly()
            return Flight(self, ask, owner, gate)
        self._close(ask, gate, hit)
        return hit

    async def _take_off(self, ask: CacheAsk, owner: OwnerId, gate: Gate[Hit]) -> Hit | None:
        """None when the flight is ours; else the result of the one that was under way."""
        tries = 0
        while True:
            mine, stored = await self._store.board(ask, owner, self._clock.now())
            if stored is not None:
                return self._of(stored)
            if mine:
                return None
            gate.tell()
            await asyncio.sleep(_POLL_SECONDS[min(tries, len(_POLL_SECONDS) - 1)])
            tries += 1

    async def _follow(
        self, gate: Gate[Hit], ask: CacheAsk, owner: OwnerId, tell: Callable[[], None]
    ) -> Hit | Flight | None:
        """The result of another one here; None when it has none."""
        gate.listen(tell)
        looked = False
        try:
            while not await gate.wait(_DOUBT_SECONDS):
                # The one who leads may wait for a flight that is this one's own, from before a crash.
                own, looked = not gate.flying and not looked, looked or not gate.flying
                if not own and not (gate.flying and gate.doubt(self._clock.monotonic(), _DOUBT_SECONDS)):
                    continue
                # Its run may have ended without a word.
                mine, stored = await self._store.board(ask, owner, self._clock.now())
                if mine or stored is not None:
                    self._close(ask, gate, None)
                    return await self._lead(ask, owner, tell)
        finally:
            gate.forget(tell)
        hit = gate.result
        return None if hit is None else self._hit(hit.encoded, hit.run_id, hit.age_seconds)

    def _of(self, stored: Stored) -> Hit:
        age = (self._clock.now() - stored.created_at).total_seconds()
        return self._hit(stored.encoded, stored.run_id, max(0.0, age))

    def _hit(self, encoded: bytes, run_id: RunId, age: float) -> Hit:
        # Decoded for each: no run gets to see what another does to the value.
        return Hit(decode(encoded), encoded, run_id, age)

    def _close(self, ask: CacheAsk, gate: Gate[Hit], hit: Hit | None) -> None:
        if self._gates.get((ask.workspace, ask.key)) is gate:
            del self._gates[ask.workspace, ask.key]
        gate.close(hit)

    # --- keeping house -------------------------------------------------------------------------------------------

    async def _keep_house(self) -> None:
        expire_at = self._clock.monotonic() + _EXPIRE_SECONDS * self._clock.random()
        while True:
            await asyncio.sleep(_LOOSE_SECONDS)
            await self._end_loose()
            if self._clock.monotonic() >= expire_at:
                expire_at = self._clock.monotonic() + _EXPIRE_SECONDS
                try:
                    await self._store.expire(self._clock.now())
                except Exception as error:  # noqa: BLE001 -- task boundary: it is done the next time
                    _log.warning("cached results cannot be expired now", error=type(error).__name__)

    async def _end_loose(self) -> None:
        """End the flights that could not be ended when they should."""
        loose, self._loose = self._loose, []
        for flight in loose:
            try:
                await self._store.abandon(flight.ask, flight.owner)
            except Exception as error:  # noqa: BLE001 -- task boundary: it is done the next time
                _log.warning("a flight cannot be ended now", error=type(error).__name__)
                self._loose.append(flight)

    def _tell_too_large(self, ask: CacheAsk, size: int) -> None:
        if ask.node not in self._too_large:
            self._too_large.add(ask.node)
            _log.warning("results are too large to be cached", node=ask.node, bytes=size, most=LARGEST_BYTES)
