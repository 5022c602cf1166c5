import asyncio
import base64
import os
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from core.account import Role
from core.errors import Conflict, Invalid, NotFound, Unavailable
from core.ids import DEFAULT_WORKSPACE, RunId, WorkflowId, Workspace
from core.run import RunStatus
from core.spec import WorkflowSpec
from infra.clock import SystemClock
from infra.postgres.api_keys import ApiKeys
from infra.postgres.audit import AuditLog
from infra.postgres.connection import create_engine
from infra.postgres.idempotency import Fresh, Idempotency, InProgress, Mismatch, Replay
from infra.postgres.runs import RunFilter, Runs
from infra.postgres.secrets import SecretKey, Secrets
from infra.postgres.workflows import Workflows
from tests.conftest import ManualClock

HERE, THERE = Workspace("here"), Workspace("there")


def spec(name: str = "flow", value: int = 1) -> WorkflowSpec:
    return WorkflowSpec.model_validate(
        {"name": name, "steps": [{"id": "a", "node": "transform.map", "with": {"value": value}}]}
    )


# Workflows


async def test_saving_adds_versions_only_for_changes(engine: AsyncEngine, manual_clock: ManualClock) -> None:
    store = Workflows(engine, manual_clock)
    first = await store.save(HERE, spec(), "ann")
    same = await store.save(HERE, spec(), "bob")
    second = await store.save(HERE, spec(value=2), "bob")
    assert (first.version, same, second.version, second.id) == (1, first, 2, first.id)
    assert (await store.get(HERE, first.id)).spec == spec(value=2)
    assert (await store.get(HERE, first.id, 1)).spec == spec()
    back = await store.publish(HERE, first.id, 1)
    assert (back.version, back.current_version) == (1, 1)
    assert (await store.get_by_name(HERE, "flow")).version == 1
    assert (await store.save(HERE, spec(value=3), "ann")).version == 3
    lines = [(line.version, line.created_by, line.current) for line in await store.versions(HERE, first.id)]
    assert lines == [(3, "ann", True), (2, "bob", False), (1, "ann", False)]


async def test_workflows_saved_at_once(engine: AsyncEngine) -> None:
    store = Workflows(engine, SystemClock())
    saved = await asyncio.gather(*(store.save(HERE, spec(value=n), "ann") for n in range(8)))
    assert sorted(one.version for one in saved) == list(range(1, 9))
    assert len({one.id for one in saved}) == 1


async def test_deleted_workflow_frees_its_name(engine: AsyncEngine, manual_clock: ManualClock) -> None:
    store = Workflows(engine, manual_clock)
    first = await store.save(HERE, spec(), "ann")
    await store.delete(HERE, first.id)
    for missing in (store.get(HERE, first.id), store.get_by_name(HERE, "flow"), store.delete(HERE, first.id)):
        with pytest.raises(NotFound, match="there is no workflow"):
            await missing
    assert (await store.save(HERE, spec(), "ann")).id != first.id


async def test_workflows_of_others_are_out_of_reach(engine: AsyncEngine, manual_clock: ManualClock) -> None:
    store = Workflows(engine, manual_clock)
    mine = await store.save(HERE, spec(), "ann")
    for attempt in (store.get(THERE, mine.id), store.versions(THERE, mine.id), store.publish(THERE, mine.id, 1)):
        with pytest.raises(NotFound):
            await attempt
    with pytest.raises(NotFound, match="version 9"):
        await store.publish(HERE, mine.id, 9)
    assert (await store.list(THERE)).items == ()


async def test_workflow_list_pages_and_searches(engine: AsyncEngine, manual_clock: ManualClock) -> None:
    store = Workflows(engine, manual_clock)
    for name in ("a_b", "axb", "Other", "more"):
        await store.save(HERE, spec(name), "ann")
    first = await store.list(HERE, limit=3)
    rest = await store.list(HERE, limit=3, cursor=first.next_cursor)
    assert [one.name for one in first.items + rest.items] == ["more", "Other", "axb", "a_b"]
    assert rest.next_cursor is None
    assert [one.name for one in (await store.list(HERE, search="A_B")).items] == ["a_b"]
    for bad in (store.list(HERE, limit=0), store.list(HERE, limit=101), store.list(HERE, cursor="x")):
        with pytest.raises(Invalid):
            await bad


# API keys


async def test_a_key_is_verified_until_revoked(engine: AsyncEngine, manual_clock: ManualClock, database: str) -> None:
    keys = ApiKeys(engine, manual_clock)
    await keys.create(HERE, "admin", Role.ADMIN, "system")
    key, plain = await keys.create(HERE, "ci", Role.EDITOR, "admin")
    assert plain.startswith("rfx_")
    assert len(plain) == 47
    principal = await keys.verify(plain)
    assert principal is not None
    assert (principal.workspace, principal.name, principal.role) == (HERE, "ci", Role.EDITOR)
    assert await keys.verify(plain + "x") is None
    with pytest.raises(NotFound):
        await keys.revoke(THERE, key.id)
    await keys.revoke(HERE, key.id)
    assert await keys.verify(plain) is None
    listed = {one.name: one.revoked_at for one in await keys.list(HERE)}
    assert listed == {"ci": manual_clock.now(), "admin": None}
    connection = await asyncpg.connect(database)
    dump = str(await connection.fetch("SELECT * FROM api_keys"))
    await connection.close()
    assert plain not in dump


async def test_another_process_refuses_a_revoked_key_soon(engine: AsyncEngine, manual_clock: ManualClock) -> None:
    keys, other = ApiKeys(engine, manual_clock), ApiKeys(engine, manual_clock)
    key, plain = await keys.create(HERE, "ci", Role.VIEWER, "admin")
    assert await other.verify(plain) is not None
    await keys.revoke(HERE, key.id)
    manual_clock.advance(6)
    assert await other.verify(plain) is None


async def test_the_last_admin_key_stays(engine: AsyncEngine, manual_clock: ManualClock) -> None:
    keys = ApiKeys(engine, manual_clock)
    first, _ = await keys.create(HERE, "one", Role.ADMIN, "system")
    second, _ = await keys.create(HERE, "two", Role.ADMIN, "system")
    outcomes = await asyncio.gather(keys.revoke(HERE, first.id), keys.revoke(HERE, second.id), return_exceptions=True)
    assert sorted(type(one).__name__ for one in outcomes) == ["Conflict", "NoneType"]


async def test_first_key(engine: AsyncEngine, manual_clock: ManualClock) -> None:
    keys = ApiKeys(engine, manual_clock)
    made = await keys.ensure_first(None)
    assert made is not None
    principal = await keys.verify(made)
    assert principal is not None
    assert (principal.role, principal.workspace) == (Role.ADMIN, DEFAULT_WORKSPACE)
    assert await keys.ensure_first(None) is None
    assert await keys.verify("a-key-that-i-chose") is None
    for _ in range(2):
        assert await keys.ensure_first("a-key-that-i-chose") is None
    assert await keys.verify("a-key-that-i-chose") is not None
    assert len(await keys.list(DEFAULT_WORKSPACE)) == 2
    with pytest.raises(Conflict, match="too short"):
        await keys.ensure_first("short")


def test_roles_are_ordered() -> None:
    assert Role.ADMIN.covers(Role.VIEWER)
    assert Role.EDITOR.covers(Role.EDITOR)
    assert not Role.EDITOR.covers(Role.APPROVER)


# Secrets


@pytest.fixture
def key(tmp_path: Path) -> SecretKey:
    return SecretKey.from_file(tmp_path / "secret.key")


async def test_secrets_are_sealed_and_bound_to_their_name(
    engine: AsyncEngine, manual_clock: ManualClock, key: SecretKey, database: str
) -> None:
    store = Secrets(engine, manual_clock, key)
    await store.put(HERE, "token", "first-value", "ann")
    await store.put(HERE, "token", "geheim-ü", "bob")
    await store.put(HERE, "other", "value", "ann")
    assert await store.get_many(HERE, ["token", "missing"]) == {"token": "geheim-ü"}
    assert await store.get_many(THERE, ["token"]) == {}
    assert [(one.name, one.updated_by) for one in await store.list(HERE)] == [("other", "ann"), ("token", "bob")]
    connection = await asyncpg.connect(database)
    sealed = await connection.fetchval("SELECT ciphertext FROM secrets WHERE name = 'token'")
    assert b"geheim" not in sealed
    await connection.execute("UPDATE secrets SET ciphertext = $1 WHERE name = 'other'", sealed)
    await connection.close()
    with pytest.raises(Conflict, match="other is damaged"):
        await store.get_many(HERE, ["other"])
    with pytest.raises(Conflict, match="another key"):
        await Secrets(engine, manual_clock, SecretKey(os.urandom(32))).get_many(HERE, ["token"])
    await store.delete(HERE, "token")
    with pytest.raises(NotFound):
        await store.delete(HERE, "token")


async def test_secret_lengths(engine: AsyncEngine, manual_clock: ManualClock, key: SecretKey) -> None:
    store = Secrets(engine, manual_clock, key)
    for value in ("abc", "x" * 65_537, "é" * 32_769):
        with pytest.raises(Invalid) as caught:
            await store.put(HERE, "token", value, "ann")
        assert value not in str(caught.value.faults)
    await store.put(HERE, "token", "x" * 65_536, "ann")
    assert await store.get_many(HERE, ["token"]) == {"token": "x" * 65_536}


def test_key_file_is_private_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    first = SecretKey.from_file(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert SecretKey.from_file(path).id == first.id
    assert SecretKey.from_text(path.read_text().strip()).id == first.id
    assert list(tmp_path.iterdir()) == [path]
    path.write_text("not base64!")
    with pytest.raises(Conflict, match="damaged"):
        SecretKey.from_file(path)
    with pytest.raises(Conflict, match="16 bytes"):
        SecretKey.from_text(base64.b64encode(bytes(16)).decode())


# Idempotency


async def test_idempotency_from_first_to_replay(engine: AsyncEngine, manual_clock: ManualClock) -> None:
    store = Idempotency(engine, manual_clock)
    now = manual_clock.now()
    fresh = await store.reserve(HERE, "k", "POST /runs", "hash", now)
    assert isinstance(fresh, Fresh)
    assert await store.reserve(HERE, "k", "POST /runs", "hash", now) == InProgress(fresh.resource_id)
    assert await store.reserve(HERE, "k", "POST /runs", "other", now) == Mismatch()
    assert isinstance(await store.reserve(THERE, "k", "POST /runs", "other", now), Fresh)
    await store.complete(HERE, "k", fresh.resource_id, 201, {"id": "\u0000"})
    await store.complete(HERE, "k", fresh.resource_id, 500, {})
    await store.release(HERE, "k", fresh.resource_id)
    assert await store.reserve(HERE, "k", "POST /runs", "hash", now) == Replay(201, {"id": "\u0000"})
    later = now + timedelta(hours=25)
    assert isinstance(await store.reserve(HERE, "k", "POST /runs", "other", later), Fresh)
    assert await store.expire(later) == 1
    assert await store.expire(later) == 0


async def test_of_many_at_once_one_is_fresh(engine: AsyncEngine) -> None:
    store = Idempotency(engine, SystemClock())
    now = SystemClock().now()
    got = await asyncio.gather(*(store.reserve(HERE, "k", "POST /x", "h", now) for _ in range(10)))
    fresh = [one for one in got if isinstance(one, Fresh)]
    assert len(fresh) == 1
    assert [one for one in got if not isinstance(one, Fresh)] == [InProgress(fresh[0].resource_id)] * 9


async def test_released_key_is_free_again(engine: AsyncEngine, manual_clock: ManualClock) -> None:
    store = Idempotency(engine, manual_clock)
    now = manual_clock.now()
    first = await store.reserve(HERE, "k", "POST /x", "h", now)
    assert isinstance(first, Fresh)
    await store.release(HERE, "k", first.resource_id)
    assert isinstance(await store.reserve(HERE, "k", "POST /y", "i", now), Fresh)


# Runs


async def add_runs(database: str, clock: ManualClock, count: int) -> list[RunId]:
    connection = await asyncpg.connect(database)
    ids = []
    for n in range(count):
        clock.advance(60)
        ids.append(RunId(clock.new_id()))
        await connection.execute(
            "INSERT INTO runs (id, workspace, workflow_id, workflow, workflow_version, status, input, context, pins, "
            "unit_key, created_by, created_at, error) "
            "VALUES ($1, 'here', $2, $3, 1, $4, '{\"n\": 1}', '{\"k\": \"v\"}', '{}', 'u', 'ann', $5, $6)",
            ids[-1],
            WorkflowId(ids[0]),
            "alpha" if n % 2 else "beta",
            "failed" if n % 3 == 0 else "completed",
            clock.now(),
            '{"class": "timeout", "message": "m", "step": "a"}' if n % 3 == 0 else None,
        )
    await connection.close()
    return ids


async def test_runs_are_listed_and_filtered(engine: AsyncEngine, manual_clock: ManualClock, database: str) -> None:
    store = Runs(engine)
    start = manual_clock.now()
    ids = await add_runs(database, manual_clock, 6)

    async def found(wanted: RunFilter) -> list[int]:
        return [ids.index(one.id) for one in (await store.list(HERE, wanted)).items]

    assert await found(RunFilter()) == [5, 4, 3, 2, 1, 0]
    assert await found(RunFilter(statuses=[RunStatus.FAILED])) == [3, 0]
    assert await found(RunFilter(statuses=[RunStatus.FAILED, RunStatus.COMPLETED], search="ALPH")) == [5, 3, 1]
    assert await found(RunFilter(search=str(ids[2]))) == [2]
    assert await found(RunFilter(search=str(ids[2])[:11])) == [2]
    assert await found(RunFilter(search="%")) == []
    assert await found(RunFilter(since=start + timedelta(minutes=2), until=start + timedelta(minutes=4))) == [2, 1]
    assert await found(RunFilter(workflow_id=WorkflowId(ids[0]))) == [5, 4, 3, 2, 1, 0]
    assert await found(RunFilter(workflow_id=WorkflowId(ids[1]))) == []
    first = await store.list(HERE, RunFilter(), limit=4)
    rest = await store.list(HERE, RunFilter(), limit=4, cursor=first.next_cursor)
    assert [one.id for one in first.items + rest.items] == ids[::-1]
    counts = await store.count_by_status(HERE, RunFilter())
    assert (counts[RunStatus.FAILED], counts[RunStatus.COMPLETED], counts[RunStatus.PAUSED]) == (2, 4, 0)
    assert (await store.list(THERE, RunFilter())).items == ()


async def test_one_run(engine: AsyncEngine, manual_clock: ManualClock, database: str) -> None:
    store = Runs(engine)
    ids = await add_runs(database, manual_clock, 1)
    run = await store.get(HERE, ids[0])
    assert run.id == ids[0]
    assert run.error == {"class": "timeout", "message": "m", "step": "a"}
    with pytest.raises(NotFound, match=str(ids[0])):
        await store.get(THERE, ids[0])


# Audit, connection


async def test_audit_log(engine: AsyncEngine, manual_clock: ManualClock) -> None:
    log = AuditLog(engine, manual_clock)
    first = await log.append(HERE, "ann", "secret.put", "token", {"n": 1})
    second = await log.append(HERE, "bob", "secret.delete", "token")
    await log.append(THERE, "eve", "secret.put", "token")
    assert (await log.list(HERE)).items == (second, first)
    assert (await log.list(HERE, action="secret.put")).items == (first,)
    page = await log.list(HERE, limit=1)
    assert (await log.list(HERE, limit=1, cursor=page.next_cursor)).items == (first,)


async def test_a_database_that_is_away(tmp_path: Path) -> None:
    for dsn in (f"postgresql://postgres@/x?host={tmp_path}", "postgresql://postgres@127.0.0.1:1/x"):
        engine = create_engine(dsn)
        with pytest.raises(Unavailable, match="does not answer"):
            await Runs(engine).list(HERE, RunFilter())
        await engine.dispose()


async def test_a_connection_that_is_cut(engine: AsyncEngine, database: str) -> None:
    store = Runs(engine)
    await store.list(HERE, RunFilter())
    admin = await asyncpg.connect(database)
    await admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await admin.close()
    with pytest.raises(Unavailable):
        await store.list(HERE, RunFilter())
    assert (await store.list(HERE, RunFilter())).items == ()


async def test_servers_that_start_at_once_agree_on_the_first_key(
    engine: AsyncEngine, manual_clock: ManualClock
) -> None:
    stores = [ApiKeys(engine, manual_clock) for _ in range(4)]
    chosen = "rfx_chosen_by_the_operator_0123456789"
    await asyncio.gather(*(store.ensure_first(chosen) for store in stores))
    assert len(await stores[0].list(DEFAULT_WORKSPACE)) == 1
