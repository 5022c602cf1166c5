"""Bounds on request bodies, before anything reads them. Plain ASGI: it costs next to nothing on the hot path."""

from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problem import TooLarge, error_response

_DISCARD_AT_MOST = 256 * 1024 * 1024
"""A body up to this size is read and thrown away, so that the client gets to see the answer."""


class BodyLimit:
    """Refuses bodies that are too large with 413.

    Args:
        most: bytes that a body may have.
        exceptions: other bounds, by path prefix.
    """

    def __init__(self, app: ASGIApp, most: int, exceptions: Mapping[str, int] | None = None) -> None:
        self._app = app
        self._most = most
        self._exceptions = dict(exceptions or {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return
        most = next((size for path, size in self._exceptions.items() if scope["path"].startswith(path)), self._most)
        declared = _content_length(scope)
        if declared is not None and declared <= most:
            await self._app(scope, receive, send)
        elif declared is not None:
            await self._refuse(scope, receive, send, most, declared if declared <= _DISCARD_AT_MOST else 0)
        else:
            await self._counted(scope, receive, send, most)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, most: int, discard: int) -> None:
        while discard > 0:
            message = await receive()
            discard -= len(message.get("body", b""))
            if message["type"] != "http.request" or not message.get("more_body"):
                break
        response = error_response(TooLarge(f"the body has more than the {most} bytes that this path takes"))
        await response(scope, receive, send)

    async def _counted(self, scope: Scope, receive: Receive, send: Send, most: int) -> None:
        """A body without a declared length: gathered up to the bound, then handed on."""
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return
            size += len(message.get("body", b""))
            if size > most:
                await self._refuse(scope, receive, send, most, _DISCARD_AT_MOST if message.get("more_body") else 0)
                return
            parts.append(message.get("body", b""))
            if not message.get("more_body"):
                break
        body = b"".join(parts)
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)


def _content_length(scope: Scope) -> int | None:
    headers = dict(scope["headers"])
    if b"transfer-encoding" in headers:
        return None
    value = headers.get(b"content-length")
    if value is None:
        return 0
    return int(value) if value.isdigit() else None
