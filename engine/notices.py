"""Tells those who watch a run that the journal has something new about it."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from core.ids import RunId
from core.journal import RunWrite


class Notices:
    """Watchers by run. A notice says only "look again": the journal has the facts, so a lost notice loses nothing."""

    def __init__(self) -> None:
        self._watchers: dict[RunId, set[asyncio.Event]] = {}

    @contextmanager
    def watch(self, run_id: RunId) -> Iterator[asyncio.Event]:
        """An event that is set whenever something new is durable; the watcher clears it."""
        event = asyncio.Event()
        self._watchers.setdefault(run_id, set()).add(event)
        try:
            yield event
        finally:
            watchers = self._watchers[run_id]
            watchers.discard(event)
            if not watchers:
                del self._watchers[run_id]

    def tell(self, writes: Sequence[RunWrite]) -> None:
        """Something is durable now."""
        if self._watchers:
            for write in writes:
                for event in self._watchers.get(write.run_id, ()):
                    event.set()
