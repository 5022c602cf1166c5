"""The paths of node versions and routes, on a real database."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine

from api import problem
from api.models.node import NodePage, NodeVersionModel
from api.models.route import RouteModel, RoutePage
from api.programs import Programs
from api.routes import node_routes, nodes
from engine.expression.evaluator import Evaluator
from engine.node.registry import NodeRegistry
from engine.node.workspaces import WorkspaceNodes
from engine.nodes import transform
from engine.nodes.egress import EgressPolicy
from engine.nodes.http import http_request_node
from engine.routing.router import Router
from infra.clock import SystemClock
from infra.postgres.api_keys import ApiKeys
from infra.postgres.audit import AuditLog
from infra.postgres.breakers import Breakers
from infra.postgres.idempotency import Idempotency
from infra.postgres.node_versions import NodeVersions
from infra.postgres.routes import Routes
from infra.postgres.workflows import Workflows

KEY = "rfx_test_key_for_the_tests_of_reflux_0001"
NODE = "payment.charge"
STRIPE: dict[str, Any] = {
    "name": NODE,
    "version": "1.0.0",
    "label": "stripe",
    "base": "http.request",
    "with": {"method": "POST", "url": "https://pay.example", "json": "{{ input }}"},
    "effect": "idempotent",
}
ADYEN = {**STRIPE, "version": "2.0.0", "label": "adyen"}
ARMS = [{"version": "1.0.0", "weight": 0.9, "fallback": "adyen"}, {"version": "2.0.0", "weight": 0.1}]
ROUTE: dict[str, Any] = {"arms": ARMS, "rules": [{"when": "hour < 6", "weights": {"adyen": 1}}], "breaker": {}}


@pytest.fixture
async def services(engine: AsyncEngine) -> AsyncIterator[SimpleNamespace]:
    async with AsyncExitStack() as stack:
        clock, registry = SystemClock(), NodeRegistry()
        for version in (http_request_node(EgressPolicy([])), transform.map_value):
            registry.register(version)
        stack.push_async_callback(registry.aclose)
        node_versions, routes = NodeVersions(engine, clock), Routes(engine, clock)
        router = Router(routes, Breakers(engine), clock, Evaluator(), registry)
        stack.push_async_callback(router.aclose)
        api_keys = ApiKeys(engine, clock)
        await api_keys.ensure_first(KEY)
        yield SimpleNamespace(
            clock=clock,
            registry=registry,
            stores=SimpleNamespace(node_versions=node_versions, routes=routes),
            workspace_nodes=WorkspaceNodes(node_versions, registry),
            router=router,
            api_keys=api_keys,
            idempotency=Idempotency(engine, clock),
            audit=AuditLog(engine, clock),
            programs=Programs(Workflows(engine, clock), registry, clock),
        )


@pytest.fixture
async def api(services: SimpleNamespace) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    app.state.services = services
    problem.install(app)
    for router in (nodes.router, node_routes.router):
        app.include_router(router)
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", headers=headers) as client:
        yield client


async def ok(answer: Any, status: int = 200) -> Any:
    found = await answer
    assert found.status_code == status, found.text
    return found.json() if found.content else None


async def test_versions_from_their_making_to_their_end(api: httpx.AsyncClient, services: SimpleNamespace) -> None:
    made = await ok(api.post("/nodes", json={**STRIPE, "status": "draft", "output": "output.body"}), 201)
    NodeVersionModel.model_validate(made)
    assert made["binding"] == {"base": "http.request@1.0.0", "with": STRIPE["with"], "output": "output.body"}
    assert (made["label"], made["status"], made["effect"]) == ("stripe", "draft", "idempotent")
    assert await ok(api.post("/nodes", json={**STRIPE, "status": "draft", "output": "output.body"})) == made
    await ok(api.post("/nodes", json=STRIPE), 409)
    path = f"/nodes/{NODE}/versions/1.0.0"
    assert (await ok(api.get(f"/nodes/{NODE}")))["status"] == "draft"
    assert [(await ok(api.post(f"{path}/promote")))["status"] for _ in range(2)] == ["staging", "production"]
    await ok(api.post(f"{path}/promote"), 409)
    await ok(api.post("/nodes", json=ADYEN), 201)
    versions = await ok(api.get(f"/nodes/{NODE}/versions"))
    NodePage.model_validate(versions)
    assert [(one["version"], one["label"]) for one in versions["items"]] == [("2.0.0", "adyen"), ("1.0.0", "stripe")]
    assert NODE in {one["name"] for one in (await ok(api.get("/nodes")))["items"]}
    assert (await ok(api.post(f"{path}/deprecate")))["status"] == "deprecated"
    assert (await ok(api.get(path)))["status"] == "deprecated"
    acts = await services.audit.list((await services.api_keys.verify(KEY)).workspace)
    assert [one.action for one in acts.items] == [
        "node.deprecate", "node.create", "node.promote", "node.promote", "node.create"
    ]  # fmt: skip


async def test_what_is_built_in_stays(api: httpx.AsyncClient) -> None:
    for act in ("promote", "deprecate"):
        await ok(api.post(f"/nodes/http.request/versions/1.0.0/{act}"), 409)
    await ok(api.post("/nodes", json={**STRIPE, "name": "http.request"}), 409)
    await ok(api.post("/nodes", json={**STRIPE, "name": "http.request", "version": "1.1.0"}), 201)
    assert (await ok(api.get("/nodes/http.request")))["version"] == "1.1.0"
    await ok(api.post("/nodes/http.request/versions/9.9.9/promote"), 404)


async def test_faults_are_named(api: httpx.AsyncClient) -> None:
    found = await ok(api.post("/nodes", json={**STRIPE, "base": "http.requst", "with": {"url": 1}}), 422)
    assert [one["path"] for one in found["faults"]] == ["$.base"]
    found = await ok(api.post("/nodes", json={**STRIPE, "with": {"uri": "a"}}), 422)
    assert {one["path"] for one in found["faults"]} == {"$.with.uri", "$.with.url"}
    found = await ok(api.post("/nodes", json={"name": "x y"}), 422)
    assert {one["path"] for one in found["faults"]} == {"$.name", "$.version", "$.base"}
    await ok(api.put(f"/nodes/{NODE}/route", json=ROUTE), 404)
    await ok(api.post("/nodes", json=STRIPE), 201)
    bad = {"arms": [{"version": "1.0.0", "weight": -1}, {"version": "1.0.1", "weight": float(2)}]}
    assert [one["path"] for one in (await ok(api.put(f"/nodes/{NODE}/route", json=bad), 422))["faults"]] == [
        "$.arms[0].weight"
    ]
    await ok(api.put(f"/nodes/{NODE}/route", json={"arms": []}), 422)


async def test_a_route_and_its_revisions(api: httpx.AsyncClient, services: SimpleNamespace) -> None:
    path = f"/nodes/{NODE}/route"
    await ok(api.get(path), 404)
    for version in (STRIPE, ADYEN):
        await ok(api.post("/nodes", json=version), 201)
    await ok(api.get(path), 404)
    await ok(api.post(f"{path}/revert"), 404)
    first = await ok(api.put(path, json=ROUTE))
    RouteModel.model_validate(first)
    assert first["revision"] == 1
    closed = {"state": "closed", "until": None, "calls": 0, "failures": 0}
    assert first["arms"] == [
        {"version": "1.0.0", "label": "stripe", "weight": 0.9, "fallback": "2.0.0", "breaker": closed},
        {"version": "2.0.0", "label": "adyen", "weight": 0.1, "breaker": closed},
    ]
    assert first["rules"] == [{"when": "hour < 6", "weights": {"2.0.0": 1.0}}]
    assert first["breaker"]["min_calls"] == 20
    assert services.router.routed("default", NODE)
    assert await ok(api.get(path)) == first
    await ok(api.post(f"{path}/revert"), 409)
    changed = {"arms": [{"version": "adyen", "weight": 100}], "revision": 1}
    assert (await ok(api.put(path, json=changed)))["revision"] == 2
    await ok(api.put(path, json={**ROUTE, "revision": 1}), 409)
    back = await ok(api.post(f"{path}/revert", headers={"Idempotency-Key": "a"}))
    assert (back["revision"], back["reverted_to"], back["arms"]) == (3, 1, first["arms"])
    assert await ok(api.post(f"{path}/revert", headers={"Idempotency-Key": "a"})) == back
    await ok(api.delete(path), 204)
    assert not services.router.routed("default", NODE)
    await ok(api.delete(path), 404)
    revisions = await ok(api.get(f"{path}/revisions"))
    RoutePage.model_validate(revisions)
    assert [(one["revision"], len(one["arms"])) for one in revisions["items"]] == [(4, 0), (3, 2), (2, 1), (1, 2)]
    assert (await ok(api.post(f"{path}/revert", json={"revision": 2})))["revision"] == 5
    await ok(api.post(f"{path}/revert", json={"revision": 99}), 404)
    # A version in a route is not taken out of use.
    await ok(api.post(f"/nodes/{NODE}/versions/2.0.0/deprecate"), 409)


async def test_only_editors_write(api: httpx.AsyncClient) -> None:
    for answer in (api.post("/nodes", json=STRIPE, headers={"Authorization": "Bearer no"}),):
        await ok(answer, 401)
