"""Server-sent events (HTML standard, section 9.2), read from bytes.

Not by lines of text: those would also end at U+2028 and the like, which may stand in JSON.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx2

from core.errors import ErrorClass, StepError

MAX_EVENT_BYTES = 8 * 1024 * 1024

_FINISH_SECONDS = 0.1

# A carriage return at the very end may be half of a line end.
_LINE_END = re.compile(rb"\r\n|\n|\r(?=.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event; `name` is empty when the server gave none."""

    name: str
    data: str


async def server_events(parts: AsyncIterator[bytes]) -> AsyncIterator[ServerEvent]:
    """The events of a stream. One that is not complete when the stream ends is left out.

    Raises:
        StepError: DECODE, when the bytes are not UTF-8 or an event is too large.
    """
    pending = bytearray()
    reader = _Reader()
    held = False
    async for part in parts:
        pending += part
        if len(pending) > MAX_EVENT_BYTES:
            raise StepError(ErrorClass.DECODE, f"An event of the stream is larger than {MAX_EVENT_BYTES} bytes.")
        if not (held or b"\n" in part or b"\r" in part):
            continue  # only a part of a line: splitting all of it again and again would take too long
        *lines, rest = _LINE_END.split(bytes(pending))
        pending = bytearray(rest)
        held = rest.endswith(b"\r")
        for line in lines:
            event = reader.take(line)
            if event is not None:
                yield event
    if pending.endswith(b"\r"):
        event = reader.take(bytes(pending[:-1]))
        if event is not None:
            yield event


async def finish(parts: AsyncIterator[bytes]) -> None:
    """Read what follows the last event, so that the connection can be used again; nothing here can fail."""
    try:
        async with asyncio.timeout(_FINISH_SECONDS):
            async for _ in parts:
                pass
    except (TimeoutError, httpx2.TransportError, StepError):
        return  # the connection is closed instead


class _Reader:
    """Puts the lines of an event together."""

    def __init__(self) -> None:
        self._name = ""
        self._data: list[str] = []
        self._size = 0

    def take(self, raw: bytes) -> ServerEvent | None:
        """The event that this line completes, if it does."""
        if not raw:
            return self._complete()
        self._size += len(raw)
        if self._size > MAX_EVENT_BYTES:
            raise StepError(ErrorClass.DECODE, f"An event of the stream is larger than {MAX_EVENT_BYTES} bytes.")
        try:
            line = raw.decode()
        except UnicodeDecodeError:
            raise StepError(ErrorClass.DECODE, "The stream is not UTF-8.") from None
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._name = value
        elif name == "data":
            self._data.append(value)
        return None

    def _complete(self) -> ServerEvent | None:
        event = ServerEvent(self._name, "\n".join(self._data)) if self._data else None
        self._name, self._data, self._size = "", [], 0
        return event
