"""`Idempotency-Key`: a write that is sent again is not done again, and gets the same answer."""

import hashlib
import uuid
from collections.abc import Awaitable, Callable

import orjson
from starlette.requests import Request
from starlette.responses import Response

from api.answer import json_response
from api.problem import BadRequest
from api.wiring import Services
from core.account import Principal
from core.errors import Fault, Invalid, RefluxError
from infra.postgres.idempotency import Fresh, Mismatch, Replay

_LONGEST_KEY = 200

Write = Callable[[uuid.UUID | None], Awaitable[Response]]
"""Does the write. The id, when there is one, is the one that the thing to be made shall have."""


async def once(
    request: Request, services: Services, principal: Principal, write: Write, again: Write | None = None
) -> Response:
    """Do a write once for each `Idempotency-Key`.

    Args:
        again: what to do when the write was begun and never answered (the server died in between). It is given the
            reserved id. Without it the write is done again, which must do no harm.

    Raises:
        Invalid: the key was used before with another body.
        BadRequest: the key is not usable.
    """
    key = request.headers.get("idempotency-key")
    if key is None:
        return await write(None)
    if not key or len(key) > _LONGEST_KEY or not key.isprintable():
        raise BadRequest(f"`Idempotency-Key` must have 1 to {_LONGEST_KEY} printable characters")
    digest = hashlib.sha256(await request.body()).hexdigest()
    target = f"{request.method} {request.url.path}"
    table = services.idempotency
    found = await table.reserve(principal.workspace, key, target, digest, services.clock.now())
    if isinstance(found, Mismatch):
        sentence = "this key was used before for another request; use a new key for each new request"
        raise Invalid(sentence, [Fault("$.headers.Idempotency-Key", "idempotency_key_reused", sentence)])
    if isinstance(found, Replay):
        return json_response(found.response, found.status, {"Idempotency-Replayed": "true"})
    # Begun and never answered: whoever did it died, or still does it. `again` knows how to find out.
    act = write if isinstance(found, Fresh) or again is None else again
    try:
        response = await act(found.resource_id)
    except RefluxError as error:
        if error.status < 500:
            # Nothing was made: the key may be used again, for a corrected request too.
            await table.release(principal.workspace, key, found.resource_id)
        raise
    await table.complete(
        principal.workspace, key, found.resource_id, response.status_code, orjson.loads(bytes(response.body) or b"null")
    )
    return response
