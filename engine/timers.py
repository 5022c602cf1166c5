"""The timers of one run: the next attempts of its tasks, the ends of its delays."""

import asyncio
from collections.abc import Callable

_LONGEST_SECONDS = 86_400.0
"""A timer rings at least daily, and its owner looks again: the wall clock may have been set meanwhile."""

TaskKey = tuple[str, int]
"""Step and element."""


class Timers:
    """At most one timer for each task."""

    def __init__(self, ring: Callable[[TaskKey], None]) -> None:
        self._ring = ring
        self._handles: dict[TaskKey, asyncio.TimerHandle] = {}

    def set(self, key: TaskKey, seconds: float) -> None:
        """Ring after so many seconds, or after a day."""
        self.cancel(key)
        delay = min(max(seconds, 0.0), _LONGEST_SECONDS)
        self._handles[key] = asyncio.get_running_loop().call_later(delay, self._rung, key)

    def cancel(self, key: TaskKey) -> None:
        """Do not ring."""
        handle = self._handles.pop(key, None)
        if handle is not None:
            handle.cancel()

    def cancel_all(self, only_step: str | None = None) -> None:
        """Do not ring for any task, or for any of one step."""
        for key in [key for key in self._handles if only_step in (None, key[0])]:
            self.cancel(key)

    def _rung(self, key: TaskKey) -> None:
        self._handles.pop(key, None)
        self._ring(key)
