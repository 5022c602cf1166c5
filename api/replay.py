"""`Idempotency-Key`: a write that is sent again is not done again, and gets the same answer."""

import asyncio
import hashlib
import uuid
from collections.abc import Awaitable, Callable
from weakref import WeakValueDictionary

import orjson
from starlette.requests import Request
from starlette.responses import Response

from api.answer import json_response
from api.problem import BadRequest
from api.services import Services
from core.account import Principal
from core.errors import Fault, Invalid, RefluxError
from infra.postgres.idempotency import Fresh, Mismatch, Replay

_LONGEST_KEY = 200
_REPLAYED = {"Idempotency-Replayed": "true"}

Write = Callable[[uuid.UUID | None], Awaitable[Response]]
"""Does the write. The id, when there is one, is the one that the thing to be made shall have. What it does before it
returns its awaitable is done under the key's lock: no duplicate of the request sees a state in between."""

_locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
"""By workspace and key, while a request is about to begin its write."""


async def once(
    request: Request, services: Services, principal: Principal, write: Write, again: Write | None = None
) -> Response:
    """Do a write once for each `Idempotency-Key`.

    Args:
        again: answers a repetition from what has become of the thing with the reserved id, and makes it when it was
            never made (the server died in between). Without it the first answer is kept and given again, and a write
            that was never answered is done again, which must do no harm.

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
    lock = _locks.setdefault((principal.workspace, key), asyncio.Lock())
    async with lock:
        found = await table.reserve(principal.workspace, key, target, digest, services.clock.now())
        if isinstance(found, Mismatch):
            sentence = "this key was used before for another request; use a new key for each new request"
            raise Invalid(sentence, [Fault("$.headers.Idempotency-Key", "idempotency_key_reused", sentence)])
        if isinstance(found, Replay):
            return json_response(found.response, found.status, _REPLAYED)
        fresh = isinstance(found, Fresh)
        act = write if fresh or again is None else again
        try:
            answering = act(found.resource_id)
        except RefluxError:
            await table.release(principal.workspace, key, found.resource_id)
            raise
    try:
        response = await answering
    except RefluxError as error:
        if fresh and error.status < 500:
            # Nothing was made: the key may be used again, for a corrected request too.
            await table.release(principal.workspace, key, found.resource_id)
        raise
    if again is None:
        answer = orjson.loads(bytes(response.body) or b"null")
        await table.complete(principal.workspace, key, found.resource_id, response.status_code, answer)
    elif not fresh:
        response.headers.update(_REPLAYED)
    return response
