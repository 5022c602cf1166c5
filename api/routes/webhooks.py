"""Webhooks: HTTP requests of other systems that start runs. Mounted at the root and below the API's prefix."""

from typing import Any

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.answer import json_response
from api.auth import authorized
from api.body import check_encoding
from api.execution import answer
from api.models.trigger import WebhookAccepted
from api.problem import problem_response, responses
from api.services import Services
from core.account import Role
from core.errors import Unavailable
from core.firing import StoredTrigger
from core.ids import RunId
from core.trigger import WebhookTrigger
from engine.triggers.webhook import Refused, WebhookRequest

router = APIRouter(prefix="/webhooks", tags=["webhooks"])

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_REPLAYED = {"Idempotency-Replayed": "true"}


async def receive(request: Request) -> Response:
    """Start a run for a request, if it is genuine and the webhook's method and state allow it."""
    services: Services = request.app.state.services
    check_encoding(request)
    # No bound stands before the body of a GET request, and none is needed: it has no meaning.
    body = b"" if request.method == "GET" else await request.body()
    found = await services.triggers.webhooks(request.path_params["path"])
    given = WebhookRequest(request.method, dict(request.headers), body, dict(request.query_params))
    trigger = await _genuine(request, services, found, given)
    config = trigger.config
    assert isinstance(config, WebhookTrigger)
    if request.method not in config.methods:
        refusal = problem_response(405, "Method Not Allowed", f"this webhook does not take {request.method}")
        refusal.headers["Allow"] = ", ".join(config.methods)
        return refusal
    delivery = await services.triggers.webhook(trigger, given)
    run_id = delivery.firing.run_id
    assert run_id is not None
    response = await _answer(services, run_id, config.wait if config.answer == "sync" else 0.0)
    if delivery.replayed:
        response.headers.update(_REPLAYED)
    response.headers["Reflux-Run-Id"] = str(run_id)
    return response


async def _genuine(
    request: Request, services: Services, found: list[StoredTrigger], given: WebhookRequest
) -> StoredTrigger:
    """The trigger that the request is for: the one that it is signed for, or the one of its API key's workspace.

    Raises:
        Refused, Unauthorized, Forbidden: there is none.
    """
    signed = [one for one in found if isinstance(one.config, WebhookTrigger) and one.config.secret is not None]
    for index, trigger in enumerate(signed):
        try:
            await services.triggers.check_signature(trigger, given)
        except Refused:
            if index == len(signed) - 1 and len(signed) == len(found):
                raise
        else:
            return trigger
    principal = await authorized(request, Role.EDITOR)
    for trigger in found:
        if trigger not in signed and trigger.workspace == principal.workspace:
            return trigger
    raise Refused("there is no webhook at this path for this API key")


async def _answer(services: Services, run_id: RunId, wait: float) -> Response:
    """The outputs of a run that completes within the wait, and otherwise where it stands."""
    try:
        run = orjson.loads((await answer(services, run_id, wait)).body)
    except Unavailable:
        # The firing is recorded, so the run will be there.
        return json_response({"run_id": str(run_id), "status": "queued"}, 202)
    if wait > 0 and run["status"] == "completed":
        return json_response(run["outputs"])
    if wait > 0 and run["status"] in ("failed", "cancelled"):
        return _failed(run)
    return json_response({"run_id": str(run_id), "status": run["status"]}, 202)


def _failed(run: dict[str, Any]) -> Response:
    error = run.get("error")
    said = f"{error['class']}: {error['message']}" if error else f"it is {run['status']}"
    return problem_response(502, "The run failed", f"the run {run['id']} has no outputs: {said}")


for _method in _METHODS:
    router.add_api_route(
        "/{path:path}",
        receive,
        methods=[_method],
        operation_id=f"receive_webhook_{_method.lower()}",
        summary=f"Start a run by a {_method} request",
        description=(
            "For a webhook with a secret the header `X-Reflux-Signature: sha256=<hex HMAC-SHA256 of the body>` takes "
            "the place of the API key."
        ),
        responses={
            200: {
                "description": "The outputs of the run, when the webhook answers synchronously.",
                "content": {"application/json": {"schema": {}}},
            },
            202: {"model": WebhookAccepted, "description": "The run is accepted, and goes on."},
            **responses(404, 405, 409, 415, 502),
        },
        openapi_extra={
            "security": [{"HTTPBearer": []}],
            "parameters": [{"name": "path", "in": "path", "required": True, "schema": {"type": "string"}}],
        },
    )
