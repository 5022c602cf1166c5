"""Group commit: the writes of all runs go to the journal in one transaction, and again as soon as it has committed.

A single writer keeps the order of submission, so whoever waits for a write knows that everything submitted before
it is durable too. One fsync serves many runs; nothing is acknowledged before it.
"""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from core.errors import RefluxError, Unavailable
from core.ids import OwnerId, RunId
from core.journal import Fenced, RunWrite
from engine.ports import Journal

_log = structlog.get_logger(__name__)

_BACKOFF_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)


class Commit:
    """One transaction to come; many may wait for it."""

    __slots__ = ("_done", "_error", "_waiters", "writes")

    def __init__(self) -> None:
        self.writes: list[RunWrite] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._done = False
        self._error: RefluxError | None = None

    async def wait(self) -> None:
        """Return when the transaction has committed.

        Raises:
            Fenced: it never will, because another engine has taken over.
        """
        if not self._done:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        if self._error is not None:
            raise self._error

    def settle(self, error: RefluxError | None = None) -> None:
        """Wake all who wait."""
        self._done, self._error = True, error
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()


class GroupCommit:
    """The one writer of an engine.

    Args:
        on_durable: called after each commit with what it wrote.
        on_taken: called for a run that another engine has created under the same id, before anybody is told of the
            commit.
        on_rejected: called for a run whose write the database refuses for what it holds (never for lack of
            connection); the other runs of the batch are written.
    """

    def __init__(
        self,
        journal: Journal,
        owner: OwnerId,
        on_durable: Callable[[Sequence[RunWrite]], None],
        on_rejected: Callable[[RunId, str], None],
        on_taken: Callable[[RunId], None],
    ) -> None:
        self._journal = journal
        self._owner = owner
        self._on_durable = on_durable
        self._on_rejected = on_rejected
        self._on_taken = on_taken
        self._gathering = Commit()
        self._writing = Commit()
        self._wanted = asyncio.Event()
        self._closing = False
        self._fenced: Fenced | None = None

    def submit(self, write: RunWrite) -> Commit:
        """Add a write to the next transaction. Raises Fenced when there will be none."""
        if self._fenced is not None:
            raise self._fenced
        commit = self._gathering
        commit.writes.append(write)
        self._wanted.set()
        return commit

    async def run(self) -> None:
        """Write until `close` is called or the owner is fenced. Raises Fenced in that case."""
        try:
            await self._write_all()
        except Fenced as fenced:
            self._give_up(fenced)
            raise
        except asyncio.CancelledError:
            self._give_up(Fenced("the engine gave its runs up before this was written"))
            raise

    async def _write_all(self) -> None:
        while True:
            await self._wanted.wait()
            # One turn of the loop lets everything that is ready now join this transaction.
            await asyncio.sleep(0)
            self._wanted.clear()
            self._writing, self._gathering = self._gathering, Commit()
            if self._writing.writes:
                await self._write(self._writing)
            if self._closing and not self._gathering.writes:
                return

    def close(self) -> None:
        """Let `run` return once everything submitted is written."""
        self._closing = True
        self._wanted.set()

    def _give_up(self, fenced: Fenced) -> None:
        """There will be no further transaction: nobody must wait for one."""
        self._fenced = fenced
        self._writing.settle(fenced)
        self._gathering.settle(fenced)

    async def _write(self, commit: Commit) -> None:
        try:
            await self._append(commit.writes)
        except (Fenced, asyncio.CancelledError):
            raise
        except Exception as error:  # noqa: BLE001 -- task boundary: one run's data must not stop all the others
            _log.error("batch refused", error=type(error).__name__, runs=len(commit.writes))
            await self._write_apart(commit.writes)
        else:
            self._on_durable(commit.writes)
        commit.settle()

    async def _write_apart(self, writes: Sequence[RunWrite]) -> None:
        by_run: dict[RunId, list[RunWrite]] = {}
        for write in writes:
            by_run.setdefault(write.run_id, []).append(write)
        for run_id, own in by_run.items():
            try:
                await self._append(own)
            except (Fenced, asyncio.CancelledError):
                raise
            except Exception as error:  # noqa: BLE001 -- as above
                _log.error("write refused", run_id=str(run_id), error=type(error).__name__)
                self._on_rejected(run_id, f"the journal refused the run's data ({type(error).__name__})")
            else:
                self._on_durable(own)

    async def _append(self, writes: Sequence[RunWrite]) -> None:
        attempt = 0
        while True:
            try:
                for run_id in await self._journal.append(self._owner, writes):
                    self._on_taken(run_id)
                return
            except Unavailable as error:
                if attempt == 0:
                    _log.warning("journal does not answer", detail=error.detail)
                await asyncio.sleep(_BACKOFF_SECONDS[min(attempt, len(_BACKOFF_SECONDS) - 1)])
                attempt += 1
