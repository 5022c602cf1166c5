"""The routes of limits and of the cache, on real stores."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import typer
import uvicorn
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine
from typer.testing import CliRunner

from api import problem
from api.cli import cache as cli_cache
from api.cli import limits as cli_limits
from api.models.cache import CacheCleared, CacheView
from api.models.limit import LimitUsePage, NodeLimitView
from api.routes import cache, limits
from core.account import Role
from core.ids import Workspace
from engine.cache.ports import CacheAsk
from engine.cache.step_cache import Flight, StepCache
from engine.limits.book import NodeLimits
from engine.node.registry import NodeRegistry
from engine.nodes.builtin import builtin_nodes
from engine.nodes.egress import EgressPolicy
from infra.clock import SystemClock
from infra.objects import Objects
from infra.postgres.api_keys import ApiKeys
from infra.postgres.audit import AuditLog
from infra.postgres.limits import Limits
from infra.postgres.step_cache import StepResults
from tests.engine.limits.room import Room, ask
from tests.server import free_port

HERE = Workspace("here")


@pytest.fixture
async def services(room: Room, engine: AsyncEngine, tmp_path: Path) -> SimpleNamespace:
    clock = SystemClock()
    registry = NodeRegistry()
    for version in builtin_nodes(EgressPolicy([])):
        registry.register(version)
    results = StepResults(engine, Objects.open(tmp_path / "objects"))
    step_cache = StepCache(results, clock)
    step_cache.owner = await room.owner()
    store = Limits(engine, clock)
    return SimpleNamespace(
        clock=clock,
        registry=registry,
        api_keys=ApiKeys(engine, clock),
        audit=AuditLog(engine, clock),
        stores=SimpleNamespace(limits=store, step_results=results),
        node_limits=NodeLimits(store),
        step_cache=step_cache,
    )


@asynccontextmanager
async def client(services: SimpleNamespace, role: Role = Role.EDITOR) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    problem.install(app)
    app.include_router(limits.router)
    app.include_router(cache.router)
    app.state.services = services
    _, key = await services.api_keys.create(HERE, role.value, role, "test")
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x", headers=headers) as made:
        yield made


async def test_limits_of_nodes(room: Room, services: SimpleNamespace) -> None:
    async with client(services) as call:
        assert (await call.get("/nodes/http.request/limits")).status_code == 404
        body = {"concurrency": 1, "rate": {"calls": 50, "per": "1s"}}
        made = await call.put("/nodes/http.request/limits", json=body)
        assert made.status_code == 200, made.text
        assert made.json() == {
            "node": "http.request",
            "concurrency": 1,
            "rate": {"calls": 50, "per": "1s", "burst": 1},
        }
        NodeLimitView.model_validate_json(made.content)
        assert (await call.get("/nodes/http.request/limits")).json() == made.json()
        limit = services.node_limits.of(HERE, "http.request")
        assert limit is not None

        process = await room.process()
        run = await room.run(process.owner)
        await process.limiter.acquire([limit.ask("h", run, "w", 5)], process.on_wait)
        keyed = "workflow:5c2f:0123"
        await process.limiter.acquire([ask(run, "h", 3, scope=keyed)], process.on_wait)
        listed = await call.get("/limits")
        LimitUsePage.model_validate_json(listed.content)
        first, second = listed.json()["items"]
        assert (first["kind"], first["node"], first["max"], first["in_use"]) == ("node", "http.request", 1, 1)
        assert (first["workflow"], first["rate"]["calls"]) == (None, 50)
        assert (second["kind"], second["workflow"], second["workflow_id"], second["keyed"]) == (
            "workflow",
            "flow",
            "5c2f",
            True,
        )

        assert (await call.delete("/nodes/http.request/limits")).status_code == 204
        assert (await call.delete("/nodes/http.request/limits")).status_code == 404
        assert services.node_limits.of(HERE, "http.request") is None
        actions = [one.action for one in (await services.audit.list(HERE, limit=9)).items]
        assert actions == ["node_limit.delete", "node_limit.put"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/nodes/http.request/limits", {}, 422),
        ("/nodes/http.request/limits", {"concurrency": 0}, 422),
        ("/nodes/http.request/limits", {"rate": {"calls": 1, "per": "0s"}}, 422),
        ("/nodes/http.request/limits", {"concurrency": 1, "more": 1}, 422),
        ("/nodes/http.reqest/limits", {"concurrency": 1}, 404),
    ],
)
async def test_bad_limits(services: SimpleNamespace, path: str, body: dict[str, object], status: int) -> None:
    async with client(services) as call:
        assert (await call.put(path, json=body)).status_code == status
    async with client(services, Role.VIEWER) as call:
        assert (await call.put("/nodes/http.request/limits", json={"concurrency": 1})).status_code == 403
        assert (await call.delete("/cache", params={"all": "true"})).status_code == 403


@asynccontextmanager
async def served(services: SimpleNamespace) -> AsyncIterator[list[str]]:
    """The routes on a port; gives the options that lead the command line there."""
    app = FastAPI()
    problem.install(app)
    app.include_router(limits.router, prefix="/api/v1")
    app.include_router(cache.router, prefix="/api/v1")
    app.state.services = services
    _, key = await services.api_keys.create(HERE, "cli", Role.EDITOR, "test")
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", lifespan="off"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield ["--url", f"http://127.0.0.1:{port}", "--api-key", key]
    server.should_exit = True
    await serving


async def test_the_command_line(services: SimpleNamespace) -> None:
    async with served(services) as where:

        async def reflux(app: typer.Typer, *words: str, code: int = 0) -> str:
            done = await asyncio.to_thread(CliRunner().invoke, app, [*words, *where])
            assert done.exit_code == code, done.output
            return done.output

        more = ("--concurrency", "10", "--calls", "50", "--per", "1m", "--burst", "5")
        sentence = "http.request: at most 10 at once and at most 50 in 1m, 5 at once"
        assert sentence in await reflux(cli_limits.app, "set", "http.request", *more)
        assert sentence in await reflux(cli_limits.app, "show", "http.request")
        assert "No limit is in use" in await reflux(cli_limits.app, "list")
        shown = json.loads(await reflux(cli_limits.app, "set", "http.request", "--concurrency", "1", "--json"))
        assert shown == {"node": "http.request", "concurrency": 1, "rate": None}
        assert "no limit any more" in await reflux(cli_limits.app, "delete", "http.request")
        assert "has no limit" in await reflux(cli_limits.app, "delete", "http.request", code=2)
        assert "--burst needs --calls" in await reflux(cli_limits.app, "set", "http.request", "--burst", "2", code=2)
        assert "Nothing is cached" in await reflux(cli_cache.app, "list")
        assert "0 cached results" in await reflux(cli_cache.app, "clear", "--all")
        assert "say which results" in await reflux(cli_cache.app, "clear", code=2)


async def test_the_cache(room: Room, services: SimpleNamespace) -> None:
    owner = services.step_cache.owner
    run = await room.run(owner)
    for n in range(4):
        node = f"node.{n % 2}"
        wish = CacheAsk(HERE, f"k{n}", node, "1.0.0", "flow", f"s{n}", run, "h", 60)
        found = await services.step_cache.board(wish, lambda *_: None)
        assert isinstance(found, Flight)
        await found.land(b"[1,2]")
    async with client(services) as call:
        shown = await call.get("/cache")
        CacheView.model_validate_json(shown.content)
        assert {key: shown.json()[key] for key in ("entries", "bytes", "hits", "misses")} == {
            "entries": 4,
            "bytes": 20,
            "hits": 0,
            "misses": 4,
        }
        assert [one["node"] for one in shown.json()["nodes"]] == ["node.0", "node.1"]
        for bad in ({}, {"all": "true", "node": "node.0"}, {"node": ""}):
            assert (await call.delete("/cache", params=bad)).status_code == 422
        cleared = await call.delete("/cache", params={"node": "node.1", "step": "s1"})
        CacheCleared.model_validate_json(cleared.content)
        assert cleared.json() == {"removed": 1}
        assert (await call.delete("/cache", params={"workflow": "flow", "node": "node.0"})).json() == {"removed": 2}
        assert (await call.delete("/cache", params={"all": "true"})).json() == {"removed": 1}
        assert (await call.get("/cache")).json()["entries"] == 0
