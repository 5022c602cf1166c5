"""Starts the runs of firings that are recorded, here and for processes that died in between.

A firing is recorded with the id of its run before the run is started. Whoever finds one that stays without its run
starts it under the same id, so it is the same run whoever starts it.
"""

import asyncio
from dataclasses import replace
from datetime import timedelta

import structlog

from core.clock import Clock
from core.errors import Invalid, NotFound, RefluxError, Unavailable
from core.firing import Firing, FiringStatus
from engine.triggers.ports import FiringStore, Runs

_log = structlog.get_logger(__name__)

TAKE_OVER_SECONDS = 5.0
"""After this time another process may start the run of a firing."""
_SWEEP_SECONDS = 1.0
_SWEEP_BATCH = 50
_GIVE_UP = timedelta(hours=24)
"""A run that could not be started for so long is not started any more."""


class Starter:
    """See the module."""

    def __init__(self, firings: FiringStore, runs: Runs, clock: Clock) -> None:
        self._firings = firings
        self._runs = runs
        self._clock = clock

    async def start(self, firing: Firing) -> Firing:
        """Start the run of a firing that this process has just reserved; gives the firing as it is then.

        Raises:
            Invalid: the input does not fit; the firing is refused.
            NotFound: the workflow is gone; the firing has failed.
            Unavailable: not now; the firing stays reserved and is started later.
        """
        assert firing.run_id is not None
        try:
            await self._runs.start_run(
                firing.workspace,
                firing.workflow_id,
                firing.run_id,
                firing.input,
                firing.context or {},
                firing.unit_key,
                firing.created_by,
            )
        except Invalid as error:
            await self._settle(firing, FiringStatus.REFUSED, error.detail)
            raise
        except NotFound as error:
            await self._settle(firing, FiringStatus.FAILED, error.detail)
            raise
        return await self._settle(firing, FiringStatus.STARTED)

    async def start_quietly(self, firing: Firing) -> Firing | None:
        """As `start`, for firings that nobody waits for; None when the run did not start."""
        try:
            return await self.start(firing)
        except Unavailable as error:
            _log.warning("a firing waits", firing=str(firing.id), detail=error.detail)
        except RefluxError as error:
            _log.warning("a firing came to nothing", firing=str(firing.id), detail=error.detail)
        except Exception:  # noqa: BLE001 -- task boundary: one firing's fault must not cost the others; it is tried again
            _log.exception("a firing stumbled", firing=str(firing.id))
        return None

    async def sweep(self) -> int:
        """Start what others left behind; returns how many runs started. Raises Unavailable."""
        now = self._clock.now()
        started = 0
        for firing in await self._firings.take_over(now, now - timedelta(seconds=TAKE_OVER_SECONDS), _SWEEP_BATCH):
            if now - firing.at > _GIVE_UP:
                await self._settle(firing, FiringStatus.FAILED, "its run could not be started for a day")
            elif await self.start_quietly(firing):
                started += 1
        return started

    async def keep_sweeping(self) -> None:
        """Sweep until cancelled."""
        while True:
            try:
                await self.sweep()
            except Unavailable as error:
                _log.warning("firings wait", detail=error.detail)
            except Exception:  # noqa: BLE001 -- task boundary: the sweep outlives its own faults
                _log.exception("the sweep of firings stumbled")
            await asyncio.sleep(_SWEEP_SECONDS)

    async def _settle(self, firing: Firing, status: FiringStatus, reason: str | None = None) -> Firing:
        await self._firings.settle(firing.id, status, reason)
        return replace(firing, status=status, reason=reason)
