"""The outermost layer of every request: what no table or path can hold is refused, and no fault gets through."""

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problem import BadRequest, error_response, problem_response

_log = structlog.get_logger(__name__)


class Boundary:
    """Answers a fault of ours with a problem document; its text goes to the log and nowhere else."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if "\x00" in scope["path"] or b"%00" in scope["query_string"]:
            refusal = error_response(BadRequest("the path and the query must not have NUL characters"))
            await refusal(scope, receive, send)
            return
        begun = False

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception:  # task boundary: one request's fault must not cost the connection of others
            _log.exception("request failed", method=scope["method"], path=scope["path"])
            if begun:
                raise
            await problem_response(500, "Internal error", "an error of the server; it has been logged")(
                scope, receive, send
            )
