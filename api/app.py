"""The ASGI application: routes, errors, bounds, and the life of the services behind them."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.responses import RedirectResponse, Response

from api import problem
from api.boundary import Boundary
from api.limits import BodyLimit
from api.problem import Problem
from api.routes import (
    accounts,
    cache,
    events,
    health,
    insights,
    limits,
    node_routes,
    nodes,
    operations,
    runs,
    traces,
    triggers,
    variables,
    webhooks,
    workers,
    workflows,
)
from api.services import Services
from core.errors import RefluxError
from engine.schema import workflow_schema

VERSION = "0.1.0"
_IMPORT_BYTES = 32 * 1024 * 1024


def create_app(
    open_services: Callable[[], AbstractAsyncContextManager[Services]],
    max_body_bytes: int,
    on_ready: Callable[[Services], None] = lambda _: None,
    on_failure: Callable[[Exception], None] = lambda _: None,
) -> FastAPI:
    """The application.

    Args:
        open_services: starts what the routes work with; entered when the server starts, left when it stops.
        on_ready: told when everything runs.
        on_failure: told why the services could not start; the server then stops.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            try:
                services = await stack.enter_async_context(open_services())
            except RefluxError as error:
                on_failure(error)
                raise
            app.state.services = services
            on_ready(services)
            yield

    app = FastAPI(
        title="REFLUX",
        version=VERSION,
        summary="Runs workflows durably, and gets better at it.",
        lifespan=lifespan,
        docs_url="/docs",
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
        redirect_slashes=False,
    )
    problem.install(app)
    app.add_middleware(BodyLimit, most=max_body_bytes, exceptions={"/api/v1/traces": _IMPORT_BYTES})
    app.add_middleware(Boundary)
    for router in (
        workflows.router,
        workflows.schemas,
        operations.router,
        runs.router,
        node_routes.router,
        limits.router,
        nodes.router,
        cache.router,
        triggers.router,
        webhooks.router,
        events.router,
        workers.router,
        variables.router,
        traces.router,
        insights.router,
        accounts.router,
    ):
        app.include_router(router, prefix="/api/v1")
    app.include_router(webhooks.router, include_in_schema=False)
    app.include_router(health.router)

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        return RedirectResponse("/docs")

    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        refs = "#/components/schemas/{model}"
        shape = Problem.model_json_schema(ref_template=refs)
        schemas.update(shape.pop("$defs", {}))
        schemas["Problem"] = shape
        schemas["WorkflowSpec"] = _embedded(workflow_schema())
        app.openapi_schema = document
    return app.openapi_schema


def _embedded(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema with `$defs` of its own, as a component: its references become absolute."""

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: _moved_ref(one) if key == "$ref" else moved(one) for key, one in value.items()}
        return [moved(one) for one in value] if isinstance(value, list) else value

    inner = {key: value for key, value in schema.items() if key not in ("$schema", "$id")}
    embedded: dict[str, Any] = moved(inner)
    return embedded


def _moved_ref(ref: str) -> str:
    return ref.replace("#/$defs/", "#/components/schemas/WorkflowSpec/$defs/")
