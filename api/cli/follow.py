"""Follows a run by its event stream, through lost connections and restarts of the server."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from api.cli.connection import Connection
from api.cli.failure import UNREACHABLE, CommandError

ENDS = frozenset({"run_completed", "run_failed", "run_cancelled"})
PATIENCE_SECONDS = 60.0
"""How long a server may be away before following it is given up. The run does not depend on it."""

_RETRY_SECONDS = 0.5
_SILENCE_SECONDS = 40.0
# The server says something every 15 seconds, if only that it is there.


async def follow(connection: Connection, run_id: str, after: int = 0) -> AsyncIterator[dict[str, Any]]:
    """The events of a run after the one with seq `after`, each once, until the run ends.

    Raises:
        CommandError: there is no such run, or the server stays away.
    """
    import httpx

    heard = time.monotonic()
    ended = False
    async with connection.streaming(_SILENCE_SECONDS) as client:
        while True:
            headers = {"Last-Event-ID": str(after)} if after else {}
            try:
                async with client.stream("GET", f"/api/v1/runs/{run_id}/stream", headers=headers) as response:
                    if response.status_code >= 400:
                        await response.aread()
                        connection.check(response)
                    async for event in read_events(response.aiter_bytes()):
                        heard = time.monotonic()
                        after = event["seq"]
                        # Not the end yet: a run that had ended may have been told to do a step again.
                        ended = event["type"] in ENDS
                        yield event
                    if ended:
                        return
                    heard = time.monotonic()
            except httpx.TransportError as error:
                if time.monotonic() - heard > PATIENCE_SECONDS:
                    raise connection.unreachable(error) from None
            except CommandError as error:
                if error.code != UNREACHABLE or time.monotonic() - heard > PATIENCE_SECONDS:
                    raise
            await asyncio.sleep(_RETRY_SECONDS)


async def read_events(chunks: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
    """The JSON data of server-sent events (WHATWG HTML, section 9.2).

    Lines are split here because httpx also splits at line ends that only Unicode knows, and JSON may contain those.
    """
    pending = b""
    data: list[bytes] = []
    async for chunk in chunks:
        *lines, pending = (pending + chunk).split(b"\n")
        for line in (one.removesuffix(b"\r") for one in lines):
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))
            elif not line and data:
                yield json.loads(b"\n".join(data))
                data = []
