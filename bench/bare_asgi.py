"""The least that an HTTP service can do: read a body, answer a few bytes. `uvicorn bench.bare_asgi:app`."""

from typing import Any

import orjson


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    message = await receive()
    body = orjson.dumps({"got": orjson.loads(message["body"]), "n": 4})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
