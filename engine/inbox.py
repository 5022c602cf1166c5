"""What happened to a run and what people ask of it, in order, for the one task that acts on it."""

import asyncio
from collections import deque
from collections.abc import Callable

from core.errors import RefluxError, Unavailable
from engine.commit import Commit

Act = Callable[[], None]


class Inbox:
    """A queue of acts. They are performed by whoever calls `perform`, one at a time."""

    def __init__(self) -> None:
        self._acts: deque[Act] = deque()
        self._filled = asyncio.Event()
        self._asked: set[asyncio.Future[None]] = set()

    def post(self, act: Act) -> None:
        """Put an act at the end."""
        self._acts.append(act)
        self._filled.set()

    def ask(self, act: Act, flush: Callable[[], Commit | None]) -> "asyncio.Future[None]":
        """Put an act at the end, and tell when what it did is durable.

        Args:
            act: may raise a RefluxError, which the future then raises.
            flush: hands over what the act emitted.
        """
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def perform() -> None:
            self._asked.discard(answer)
            try:
                act()
                commit = flush()
            except RefluxError as error:
                if not answer.done():  # whoever asked may have left
                    answer.set_exception(error)
                return
            if commit is None:
                if not answer.done():
                    answer.set_result(None)
            else:
                waiting = asyncio.ensure_future(commit.wait())
                waiting.add_done_callback(lambda done: _pass_on(done, answer))

        self._asked.add(answer)
        self.post(perform)
        return answer

    def close(self) -> None:
        """Nobody will perform what is here: whoever asked for it is told so."""
        self._acts.clear()
        for answer in self._asked:
            if not answer.done():
                answer.set_exception(Unavailable("the run changes hands at this moment; try again"))
        self._asked.clear()

    async def filled(self) -> None:
        """Wait until there is an act."""
        if not self._acts:
            self._filled.clear()
            await self._filled.wait()

    def perform(self) -> None:
        """Perform all acts that are there."""
        while self._acts:
            self._acts.popleft()()


def _pass_on(done: "asyncio.Future[None]", answer: "asyncio.Future[None]") -> None:
    if answer.done():
        return
    error = done.exception()
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(None)
