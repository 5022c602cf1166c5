"""The limiter of one process: what is asked for and given back in one turn of the loop goes to the database together.

The database grants, so that limits hold over all processes and through every crash. Those who wait here are asked about
in one batch, ten times in a second, and at once when something is given back here. A slot belongs to a run and to the
engine that drives it: it comes back when it is released, when the run has ended, or when the run's next owner gives it
back; that owner finds it again under the same holder.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Sequence

import structlog

from core.clock import Clock
from core.errors import Unavailable
from core.ids import OwnerId, RunId
from core.limit import OwnedAsk, ScopeTurn, SlotAsk
from engine.limits.ports import SlotStore
from engine.limits.queue import Granted, Queue

_log = structlog.get_logger(__name__)

POLL_SECONDS = 0.1
SWEEP_SECONDS = 5.0
_BACKOFF_SECONDS = (0.05, 0.1, 0.2, 0.5)
_FAREWELL_SECONDS = 2.0
_AT_ONCE = 0.001
"""A delay that is not worth a sleep."""
_LIVES = 4
"""Owners whose grants are still of interest: one whose tasks are being stopped, and the present one."""

OnWait = Callable[[str, str], None]
"""Told why something waits: the reason (`concurrency_limit`, `rate_limit`) and a short sentence."""


class Slots:
    """Slots in use."""

    def __init__(self, limiter: "Limiter") -> None:
        self._limiter = limiter
        self._held: list[tuple[str, str, OwnerId]] = []

    def add(self, asked: OwnedAsk) -> None:
        """One more."""
        self._held.append((asked.ask.scope, asked.ask.holder, asked.owner))

    def release(self) -> None:
        """Give all of them back, soon, also when the database is away at this moment. May be called again."""
        held, self._held = self._held, []
        if held:
            self._limiter.give_back(held)


class Limiter:
    """See the module.

    Attributes:
        owner: the engine's present life; None while it has none.
    """

    def __init__(self, store: SlotStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._queue = Queue()
        self._wanted = asyncio.Event()
        self._poll_at = 0.0
        self._owners: deque[OwnerId] = deque(maxlen=_LIVES)
        self._alive = False
        self._tasks: list[asyncio.Task[None]] = []
        self._idle = asyncio.Event()

    @property
    def owner(self) -> OwnerId | None:
        """The engine's present life."""
        return self._owners[-1] if self._alive else None

    @owner.setter
    def owner(self, owner: OwnerId | None) -> None:
        self._alive = owner is not None
        if owner is not None and owner not in self._owners:
            self._owners.append(owner)

    @property
    def waiting(self) -> int:
        """How many wait here."""
        return self._queue.waiting

    def start(self) -> None:
        """Begin to work."""
        self._tasks = [asyncio.create_task(self._work()), asyncio.create_task(self._keep_sweeping())]

    async def aclose(self) -> None:
        """Stop, after what was released has been given back, if that is possible soon."""
        try:
            async with asyncio.timeout(_FAREWELL_SECONDS):
                while self._tasks and (self._queue.owing or not self._idle.is_set()):
                    self._wanted.set()
                    await asyncio.sleep(0.005)
        except TimeoutError:
            _log.warning("slots are left to be swept")
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tasks = []

    async def acquire(self, asks: Sequence[SlotAsk], on_wait: OnWait) -> Slots:
        """Wait for all of these. They are taken one after the other in an order that is the same for everybody, so no
        two can wait for each other; mere rates come last, since nothing is kept of them.

        Cancelled while it waits, it leaves nothing behind.

        Args:
            on_wait: called at most once for each ask, when it has to wait.

        Raises:
            Unavailable: this engine has no life at this moment.
        """
        owner = self.owner
        if owner is None:
            raise Unavailable("the engine is starting or stopping; try again")
        slots = Slots(self)
        try:
            for ask in sorted(asks, key=lambda one: (not one.limit.holds, one.scope)):
                asked = OwnedAsk(ask, owner)
                granted = await self._granted(asked, on_wait)
                if granted.holds:
                    slots.add(asked)
                if granted.delay > _AT_ONCE:
                    await asyncio.sleep(granted.delay)
        except BaseException:
            slots.release()
            raise
        return slots

    async def release_run(self, run_id: RunId, keep: Collection[str] = ()) -> None:
        """Give back everything of a run, whoever asked for it, but what these holders have.

        For a run that has just been adopted, or has ended. What another living engine has taken up stays.

        Raises:
            Unavailable: the database does not answer. Slots of an ended run come back nevertheless.
        """
        if self._owners:
            self._queue.poke(await self._store.release_run(run_id, self._owners[-1], keep))
            self._wanted.set()

    def give_back(self, held: Sequence[tuple[str, str, OwnerId]]) -> None:
        """Give slots back with the next turn; see `Slots.release`."""
        for scope, holder, owner in held:
            self._queue.give_back(scope, holder, owner)
        self._wanted.set()

    async def _granted(self, asked: OwnedAsk, on_wait: OnWait) -> Granted:
        waiter = self._queue.add(asked)
        self._wanted.set()
        try:
            reason = await waiter.heard
            if reason is not None:
                on_wait(*reason)
            granted = await waiter.granted
        except BaseException:
            self._queue.drop(waiter)
            self._wanted.set()
            raise
        if reason is None and granted.delay > _AT_ONCE:
            on_wait(*granted.reason)
        return granted

    # --- the work ------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        failures = 0
        while True:
            await self._rest()
            # One turn of the loop lets everything that is ready now join.
            await asyncio.sleep(0)
            self._wanted.clear()
            everything = self._clock.monotonic() >= self._poll_at
            turns = self._queue.take(everything)
            if everything:
                self._poll_at = self._clock.monotonic() + POLL_SECONDS
            if not turns:
                self._idle.set()
                continue
            self._idle.clear()
            try:
                await self._say(turns)
                failures = 0
            except Unavailable as error:
                self._queue.again(turns)
                if failures == 0:
                    _log.warning("limits wait for the database", detail=error.detail)
                await asyncio.sleep(_BACKOFF_SECONDS[min(failures, len(_BACKOFF_SECONDS) - 1)])
                failures += 1
            # More than fits into a turn may be left.
            self._wanted.set()

    async def _rest(self) -> None:
        """Until there is something to say, or it is time to ask how things stand."""
        if self._wanted.is_set():
            return
        left = self._poll_at - self._clock.monotonic() if self._queue.restless else None
        if left is not None and left <= 0:
            return
        try:
            async with asyncio.timeout(left):
                await self._wanted.wait()
        except TimeoutError:
            pass

    async def _say(self, turns: Sequence[ScopeTurn]) -> None:
        try:
            answers = await self._store.turn(self._owners, turns)
        except Unavailable:
            raise
        except Exception as error:  # noqa: BLE001 -- task boundary: what one scope is asked must not stop all the others
            _log.error("limits refused", scopes=len(turns), error=type(error).__name__)
            if len(turns) == 1:
                reason = f"the limit cannot be asked for a slot ({type(error).__name__})"
                self._queue.refused(turns[0].scope, Unavailable(reason))
                return
            for turn in turns:
                await self._say((turn,))
            return
        self._queue.answered(turns, answers)

    async def _keep_sweeping(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            try:
                swept = await self._store.sweep()
            except Exception as error:  # noqa: BLE001 -- task boundary: slots left behind are swept the next time
                _log.warning("slots cannot be swept now", error=type(error).__name__)
            else:
                if swept:
                    _log.info("slots of ended runs swept", slots=swept)
