"""Places for attempts in a worker: as many as it may perform at once."""

import asyncio
from collections import deque


class Slots:
    """Counts the places. Once closed, nobody gets one and nobody waits for one."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.open = True
        self._waiters: deque[asyncio.Future[None]] = deque()
        self.used = 0

    async def take(self) -> bool:
        """Wait for a place. False when closed."""
        while self.open and self.used >= self._size:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._wake(1)  # the place that was meant for us is somebody else's now
                raise
        if self.open:
            self.used += 1
        return self.open

    def give(self) -> None:
        """Give a place back."""
        self.used -= 1
        self._wake(1)

    def close(self) -> None:
        """From now on there are none."""
        self.open = False
        self._wake(len(self._waiters))

    def _wake(self, many: int) -> None:
        while many and self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                many -= 1
