from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from core.errors import Conflict, Invalid, NotFound
from core.ids import Workspace
from core.variable import VariableScope
from infra.postgres import variables as module
from infra.postgres.variables import Variables
from tests.conftest import ManualClock

HERE, THERE = Workspace("here"), Workspace("there")
GLOBAL, WORKFLOW, SESSION = VariableScope.GLOBAL, VariableScope.WORKFLOW, VariableScope.SESSION


@pytest.fixture
def store(engine: AsyncEngine, manual_clock: ManualClock) -> Variables:
    return Variables(engine, manual_clock)


async def put(store: Variables, scope: VariableScope, owner: str, value: Any, name: str = "n", **more: Any) -> None:
    await store.put(more.get("workspace", HERE), scope, owner, name, value, more.get("expires_at"), "ann")


async def test_the_narrowest_scope_is_seen(store: Variables, manual_clock: ManualClock) -> None:
    async def seen(workflow: str = "shop", session: str = "s1") -> Any:
        return {name: one.value for name, one in (await store.visible(HERE, workflow, session, now)).items()}

    now = manual_clock.now()
    await put(store, SESSION, "s1", {"deep": [None, "\u0000"]})
    await put(store, GLOBAL, "", "all")
    await put(store, WORKFLOW, "shop", "shop")
    await put(store, GLOBAL, "", "elsewhere", workspace=THERE)
    await put(store, WORKFLOW, "s1", "a workflow that is called like the session")
    assert await seen() == {"n": {"deep": [None, "\u0000"]}}
    assert await seen(session="") == {"n": "shop"}
    assert await seen(workflow="other", session="s2") == {"n": "all"}


async def test_what_has_expired_is_not_there(store: Variables, manual_clock: ManualClock, engine: AsyncEngine) -> None:
    soon = manual_clock.now() + timedelta(seconds=10)
    await put(store, WORKFLOW, "shop", 1, expires_at=soon)
    await put(store, GLOBAL, "", 2)
    assert (await store.visible(HERE, "shop", "", manual_clock.now()))["n"].expires_at == soon
    manual_clock.advance(10)
    assert (await store.visible(HERE, "shop", "", manual_clock.now()))["n"].value == 2
    assert [one.variable.value for one in (await store.list(HERE)).items] == [2]
    with pytest.raises(NotFound):
        await store.delete(HERE, WORKFLOW, "shop", "n")
    await put(store, WORKFLOW, "shop", 3, name="m", expires_at=soon)
    assert await store.sweep(manual_clock.now()) == 1  # the delete has taken the other with it
    assert await store.sweep(manual_clock.now()) == 0
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM variables"))).scalar_one() == 1


async def test_setting_replaces_and_deleting_forgets(store: Variables, manual_clock: ManualClock) -> None:
    await put(store, GLOBAL, "", 1, expires_at=manual_clock.now() + timedelta(seconds=5))
    await store.set(HERE, GLOBAL, "", "n", None, None, "bob")
    (found,) = (await store.list(HERE)).items
    assert (found.variable.value, found.variable.expires_at, found.updated_by) == (None, None, "bob")
    await store.delete(HERE, GLOBAL, "", "n")
    assert await store.visible(HERE, "shop", "s", manual_clock.now()) == {}
    with pytest.raises(NotFound, match="n of the scope global"):
        await store.delete(HERE, GLOBAL, "", "n")


async def test_lists_come_in_pages_and_by_owner(store: Variables) -> None:
    for scope, owner in ((GLOBAL, ""), (WORKFLOW, "shop"), (WORKFLOW, "bank"), (SESSION, "shop")):
        for name in ("b", "a"):
            await put(store, scope, owner, 1, name=name)
    found, cursor = [], None
    while True:
        page = await store.list(HERE, limit=3, cursor=cursor)
        found += [(one.variable.scope.value, one.owner, one.variable.name) for one in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert found == sorted(found)
    assert len(found) == 8
    assert len((await store.list(HERE, scope=WORKFLOW)).items) == 4
    assert {one.owner for one in (await store.list(HERE, workflow="bank")).items} == {"bank"}
    both = (await store.list(HERE, workflow="shop", session="shop")).items
    assert {one.variable.scope for one in both} == {WORKFLOW, SESSION}
    for wrong in ("x", "WzFd", "WyJhIl0="):
        with pytest.raises(Invalid):
            await store.list(HERE, cursor=wrong)
    with pytest.raises(Invalid):
        await store.list(HERE, limit=101)


async def test_there_is_a_bound(store: Variables, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_STORED", 2)
    await put(store, GLOBAL, "", 1, name="a")
    await put(store, GLOBAL, "", 1, name="b")
    with pytest.raises(Conflict):
        await put(store, GLOBAL, "", 1, name="c")
    await put(store, GLOBAL, "", 2, name="b")
    await put(store, WORKFLOW, "shop", 1, name="c")
