import asyncio
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from core.errors import Conflict, Invalid, NotFound
from core.ids import Workspace
from core.manifest import NodeManifest, NodeStatus
from core.route import Route
from infra.clock import SystemClock
from infra.postgres.breakers import Breakers
from infra.postgres.generations import Generations
from infra.postgres.node_versions import NodeVersions
from infra.postgres.routes import Routes
from tests.conftest import ManualClock

HERE, THERE = Workspace("here"), Workspace("there")
NODE = "payment.charge"


def route(*versions: str, **more: Any) -> Route:
    arms = [{"version": one, "weight": 1 / len(versions)} for one in versions]
    return Route.model_validate({"arms": arms, **more})


def manifest(version: str = "1.0.0", status: NodeStatus = NodeStatus.DRAFT) -> NodeManifest:
    return NodeManifest(name=NODE, version=version, title="t", status=status, input_schema={}, output_schema={})


async def add(store: NodeVersions, version: str = "1.0.0", workspace: Workspace = HERE, **more: Any) -> bool:
    binding = {"name": NODE, "version": version, "base": "http.request", **more}
    return (await store.add(workspace, manifest(version), binding, "http.request@1.0.0", "stripe", "ann"))[1]


async def test_revisions_count_and_equal_routes_change_nothing(engine: AsyncEngine, manual_clock: ManualClock) -> None:
    store, generations = Routes(engine, manual_clock), Generations(engine)
    retry = {"max_attempts": 2, "on": ["timeout", "network"]}
    full = Route.model_validate(
        {"arms": [{"version": "1.0.0", "weight": 1.0, "timeout": "2s", "retry": retry}], "breaker": {"cooldown": "5s"}}
    )
    first = await store.put(HERE, NODE, full, "ann", expected=0)
    assert (first.revision, (await generations.current())["routes"]) == (1, 1)
    assert await store.put(HERE, NODE, full, "bob") == first
    assert (await generations.current())["routes"] == 1
    assert await store.get(HERE, NODE) == first
    second = await store.put(HERE, NODE, route("1.0.0", "2.0.0"), "bob", expected=1)
    assert (second.revision, (await generations.current())["routes"]) == (2, 2)
    with pytest.raises(Conflict, match="at revision 2, not 1"):
        await store.put(HERE, NODE, full, "ann", expected=1)
    await store.put(THERE, NODE, full, "eve")
    assert {(one.workspace, one.revision) for one in await store.load()} == {(HERE, 2), (THERE, 1)}
    page = await store.revisions(HERE, NODE, limit=1)
    assert [one.revision for one in page.items] == [2]
    assert [one.revision for one in (await store.revisions(HERE, NODE, cursor=page.next_cursor)).items] == [1]
    with pytest.raises(Invalid):
        await store.revisions(HERE, NODE, cursor="x")


async def test_a_route_that_was_taken_away(engine: AsyncEngine, manual_clock: ManualClock) -> None:
    store = Routes(engine, manual_clock)
    with pytest.raises(NotFound):
        await store.get(HERE, NODE)
    await store.put(HERE, NODE, route("1.0.0"), "ann")
    gone = await store.put(HERE, NODE, None, "ann")
    assert (gone.revision, gone.route, await store.load()) == (2, None, [])
    with pytest.raises(NotFound):
        await store.get(HERE, NODE)
    back = await store.put(HERE, NODE, (await store.get(HERE, NODE, 1)).route, "ann", expected=2, reverted_to=1)
    assert (back.revision, back.reverted_to, await store.load()) == (3, 1, [back])


async def test_changes_at_once_get_a_revision_each(engine: AsyncEngine) -> None:
    store = Routes(engine, SystemClock())
    made = await asyncio.gather(*(store.put(HERE, NODE, route(f"{n}.0.0"), "ann") for n in range(8)))
    assert sorted(one.revision for one in made) == list(range(1, 9))
    refused = await asyncio.gather(
        *(store.put(HERE, NODE, route(f"{n}.1.0"), "ann", expected=8) for n in range(4)), return_exceptions=True
    )
    assert sum(isinstance(one, Conflict) for one in refused) == 3


async def test_the_end_of_a_route_closes_its_breakers(engine: AsyncEngine, manual_clock: ManualClock) -> None:
    store, breakers = Routes(engine, manual_clock), Breakers(engine)
    await store.put(HERE, NODE, route("1.0.0", breaker={}), "ann")
    for workspace in (HERE, THERE):
        await breakers.open(workspace, NODE, "1.0.0", 30.0, 10, 5, again=False)
    await store.put(HERE, NODE, None, "ann")
    assert [one.workspace for one in await breakers.load()] == [THERE]
    assert (await Generations(engine).current())["breakers"] == 3


async def test_a_breaker_that_is_open_stays_as_it_is(engine: AsyncEngine) -> None:
    breakers = Breakers(engine)
    await breakers.open(HERE, NODE, "1.0.0", 30.0, 10, 5, again=False)
    await breakers.open(HERE, NODE, "1.0.0", 99.0, 20, 20, again=False)
    (found,) = await breakers.load()
    assert (found.cooldown, found.calls, found.failures) == (30.0, 10, 5)
    assert 29 < found.remaining <= 30
    await breakers.open(HERE, NODE, "1.0.0", 60.0, 10, 5, again=True)
    assert (await breakers.load())[0].cooldown == 60.0
    await breakers.close(HERE, NODE, "1.0.0")
    assert await breakers.load() == []


async def test_versions_never_change(engine: AsyncEngine, manual_clock: ManualClock) -> None:
    store = NodeVersions(engine, manual_clock)
    assert await add(store)
    assert not await add(store)
    with pytest.raises(Conflict, match="exists with other content"):
        await add(store, output="output.body")
    assert await add(store, workspace=THERE, output="output.body")
    assert {(one.workspace, one.base, one.label) for one in await store.load()} == {
        (HERE, "http.request@1.0.0", "stripe"),
        (THERE, "http.request@1.0.0", "stripe"),
    }
    assert (await Generations(engine).current())["nodes"] == 2
    with pytest.raises(NotFound):
        await store.get(HERE, NODE, "2.0.0")


async def test_a_version_made_twice_at_once(engine: AsyncEngine) -> None:
    store = NodeVersions(engine, SystemClock())
    assert sorted(await asyncio.gather(*(add(store) for _ in range(5)))) == [False] * 4 + [True]


async def test_the_life_of_a_version(engine: AsyncEngine, manual_clock: ManualClock) -> None:
    store = NodeVersions(engine, manual_clock)
    await add(store)
    assert (await store.promote(HERE, NODE, "1.0.0")).status is NodeStatus.STAGING
    assert (await store.promote(HERE, NODE, "1.0.0")).status is NodeStatus.PRODUCTION
    with pytest.raises(Conflict, match="only draft and staging"):
        await store.promote(HERE, NODE, "1.0.0")
    routes = Routes(engine, manual_clock)
    await routes.put(HERE, NODE, route("1.0.0"), "ann")
    with pytest.raises(Conflict, match="take it out of the route"):
        await store.deprecate(HERE, NODE, "1.0.0")
    await routes.put(HERE, NODE, None, "ann")
    assert (await store.deprecate(HERE, NODE, "1.0.0")).status is NodeStatus.DEPRECATED
    with pytest.raises(Conflict):
        await store.promote(HERE, NODE, "1.0.0")
    for missing in (store.promote(THERE, NODE, "1.0.0"), store.deprecate(HERE, NODE, "9.0.0")):
        with pytest.raises(NotFound):
            await missing
