"""GET /workers, on a real table."""

from types import SimpleNamespace

import httpx
from fastapi import FastAPI

from api.models.worker import WorkerList
from api.routes.workers import router
from core.account import Role
from core.ids import DEFAULT_WORKSPACE
from infra.clock import SystemClock
from infra.objects import Objects
from infra.postgres.api_keys import ApiKeys
from infra.postgres.connection import create_engine
from infra.postgres.workers import Workers
from tests.engine.remote.conftest import Served


async def test_the_route_shows_the_workers(served: Served) -> None:
    engine = create_engine(served.dsn)
    keys = ApiKeys(engine, SystemClock())
    key = await keys.create(DEFAULT_WORKSPACE, "reader", Role.VIEWER, "test")
    app = FastAPI()
    app.include_router(router)
    app.state.services = SimpleNamespace(
        api_keys=keys, workers=Workers(engine, Objects.open(served.directory / "home" / "objects"))
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        answer = await client.get("/workers", headers={"Authorization": f"Bearer {key[1]}"})
    assert answer.status_code == 200
    shown = WorkerList.model_validate_json(answer.content)
    assert {one.pid for one in shown.workers} == {one.process.pid for one in served.workers if one.process}
    assert [(one.group, one.workers) for one in shown.groups] == [("test", 2)]
    await engine.dispose()
