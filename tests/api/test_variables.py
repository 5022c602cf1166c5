"""The routes of variables, on a real store, in an application of their own."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine

from api import problem
from api.models.variable import Variable as Shown
from api.models.variable import VariablePage
from api.routes.variables import router
from core.account import Role
from core.ids import DEFAULT_WORKSPACE
from infra.clock import SystemClock
from infra.postgres.api_keys import ApiKeys
from infra.postgres.audit import AuditLog
from infra.postgres.variables import Variables


@dataclass(frozen=True, slots=True)
class Stores:
    """Those that the routes use."""

    variables: Variables


@dataclass(frozen=True, slots=True)
class Parts:
    """What the routes need of the services."""

    clock: SystemClock
    stores: Stores
    api_keys: ApiKeys
    audit: AuditLog


@pytest.fixture
def parts(engine: AsyncEngine) -> Parts:
    clock = SystemClock()
    return Parts(clock, Stores(Variables(engine, clock)), ApiKeys(engine, clock), AuditLog(engine, clock))


async def client_of(parts: Parts, role: Role) -> httpx.AsyncClient:
    app = FastAPI()
    app.include_router(router)
    problem.install(app)
    app.state.services = parts
    _, key = await parts.api_keys.create(DEFAULT_WORKSPACE, role.value, role, "test")
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://here", headers={"Authorization": f"Bearer {key}"}
    )


@pytest.fixture
async def editor(parts: Parts) -> AsyncIterator[httpx.AsyncClient]:
    async with await client_of(parts, Role.EDITOR) as client:
        yield client


async def test_variables_are_set_listed_and_deleted(editor: httpx.AsyncClient, parts: Parts) -> None:
    made = await editor.put("/variables/region", json={"value": {"a": [1, None]}})
    assert made.status_code == 200, made.text
    assert Shown.model_validate(made.json()).updated_by == "editor"
    scoped = {"value": None, "scope": "session", "session": "ann", "ttl": "1h"}
    late = Shown.model_validate((await editor.put("/variables/region", json=scoped)).json())
    assert late.session == "ann"
    assert late.expires_at is not None
    await editor.put("/variables/region", json={"value": 3, "scope": "workflow", "workflow": "shop"})
    listed = VariablePage.model_validate((await editor.get("/variables", params={"limit": 2})).json())
    assert [(one.scope.value, one.value) for one in listed.items] == [("global", {"a": [1, None]}), ("session", None)]
    more = await editor.get("/variables", params={"limit": 2, "cursor": listed.next_cursor})
    assert [one["workflow"] for one in more.json()["items"]] == ["shop"]
    only = await editor.get("/variables", params={"workflow": "shop"})
    assert [one["value"] for one in only.json()["items"]] == [3]
    assert (await editor.delete("/variables/region")).status_code == 204
    assert (await editor.delete("/variables/region")).status_code == 404
    whose = {"scope": "workflow", "workflow": "shop"}
    assert (await editor.delete("/variables/region", params=whose)).status_code == 204
    acts = await parts.audit.list(DEFAULT_WORKSPACE, limit=10)
    assert [one.action for one in acts.items] == ["variable.delete"] * 2 + ["variable.put"] * 3
    assert all("value" not in one.detail for one in acts.items)


@pytest.mark.parametrize(
    ("name", "body", "path"),
    [
        ("n", {}, "$.value"),
        ("n", {"value": 1, "scope": "run"}, "$.scope"),
        ("n", {"value": 1, "scope": "workflow"}, "$.workflow"),
        ("n", {"value": 1, "workflow": "shop"}, "$.workflow"),
        ("n", {"value": 1, "scope": "session", "session": ""}, "$.session"),
        ("n", {"value": 1, "ttl": 0}, "$.ttl"),
        ("n", {"value": "x" * 270_000}, "$.value"),
        ("no name", {"value": 1}, "$.path.name"),
    ],
)
async def test_what_cannot_be_set(editor: httpx.AsyncClient, name: str, body: Any, path: str) -> None:
    answer = await editor.put(f"/variables/{name}", json=body)
    assert answer.status_code == 422
    assert [fault["path"] for fault in answer.json()["faults"]] == [path]


async def test_who_only_looks_changes_nothing(parts: Parts) -> None:
    async with await client_of(parts, Role.VIEWER) as viewer:
        assert (await viewer.get("/variables")).json() == {"items": [], "next_cursor": None}
        assert (await viewer.put("/variables/n", json={"value": 1})).status_code == 403
        assert (await viewer.delete("/variables/n")).status_code == 403
