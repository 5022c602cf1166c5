"""A secret is where it is used and nowhere else: not in a table, a trace, a log, an answer, an error or a figure."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import asyncpg
import httpx
import pytest

from tests.api.conftest import API, create, execute, one_step
from tests.api.target import Target
from tests.server import RunningServer, running_server

SECRETS = {
    "HEADER_TOKEN": "hdr/S3cret+Value=tokén-äöü-0001",
    "BEARER_TOKEN": "bearer_S3cret.Value~0002_xyz",
    "BASIC_PASSWORD": "basic:S3cret Value&0003?x=y",
    "QUERY_KEY": "query S3cret/Value&0004=%+",
    "HEADER_KEY": 'quote"S3cret\\Value-0005',
}
USES: dict[str, dict[str, Any]] = {
    "header": {
        "headers": {
            "X-Token": "{{ secrets.HEADER_KEY }}",
            "X-Other": "{{ secrets.HEADER_TOKEN }}",
            "X-Mixed": "v1 {{ secrets.BEARER_TOKEN }} end",
        }
    },
    "bearer": {"auth": {"type": "bearer", "token": "{{ secrets.BEARER_TOKEN }}"}},
    "basic": {"auth": {"type": "basic", "username": "ada", "password": "{{ secrets.BASIC_PASSWORD }}"}},
    "query": {"auth": {"type": "api_key", "name": "k", "value": "{{ secrets.QUERY_KEY }}", "in": "query"}},
    "api_key": {"auth": {"type": "api_key", "name": "X-Key", "value": "{{ secrets.HEADER_KEY }}"}},
}


def forms(secret: str) -> set[str]:
    """The ways in which a text may lie about."""
    raw = secret.encode()
    found = {
        secret,
        quote(secret),
        quote(secret, safe=""),
        quote_plus(secret),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        raw.hex(),
    }
    for before in ("", "ada:", " ", "  "):
        # What stands before moves the base64 groups: compare what does not depend on neighbours.
        encoded = base64.b64encode(before.encode() + raw).decode().rstrip("=")
        found |= {encoded[4:-2], encoded[4:-2].replace("+", "-").replace("/", "_")} if before else {encoded[:-1]}
    return found


NEEDLES = sorted({form for secret in SECRETS.values() for form in forms(secret)} | {"S3cret"})


def leaks(text: str) -> list[str]:
    return [needle for needle in NEEDLES if needle in text]


@pytest.fixture(scope="module")
def used(target: Target) -> Iterator[tuple[RunningServer, httpx.Client, list[str]]]:
    """A server on which every secret was used in every way, against a server that gives all of it back."""
    with running_server({"REFLUX_LOG_LEVEL": "debug"}) as server, server.client() as api:
        api.base_url = httpx.URL(server.url + API)
        for name, value in SECRETS.items():
            assert api.post("/secrets", json={"name": name, "value": value}).status_code == 201
        runs = []
        for kind, use in USES.items():
            for status in (200, 400, 401, 500):
                name = f"use_{kind}_{status}"
                call = {"url": f"{target.url}/echo/{status}/{name}", **use}
                spec = one_step(name, "http.request", call, retry={"max_attempts": 2, "initial": "10ms"})
                spec["steps"].append(
                    {"id": "copy", "node": "transform.map", "with": {"value": {"got": "{{ steps.only.output }}"}}}
                )
                create(api, spec)
                runs.append(execute(api, name)["id"])
            create(api, one_step(f"refused_{kind}", "http.request", {"url": "http://127.0.0.1:9/", **use}))
            runs.append(execute(api, f"refused_{kind}")["id"])
        yield server, api, runs


def test_the_secrets_were_sent(used: Any, target: Target) -> None:
    def sent(kind: str) -> dict[str, str]:
        call = target.to(f"/echo/200/use_{kind}_200")[0]
        return {**call.headers, **{name: values[0] for name, values in call.query.items()}}

    assert sent("header")["x-token"] == SECRETS["HEADER_KEY"]
    assert sent("header")["x-mixed"] == f"v1 {SECRETS['BEARER_TOKEN']} end"
    assert sent("bearer")["authorization"] == f"Bearer {SECRETS['BEARER_TOKEN']}"
    basic = base64.b64encode(f"ada:{SECRETS['BASIC_PASSWORD']}".encode()).decode()
    assert sent("basic")["authorization"] == f"Basic {basic}"
    assert sent("header")["x-other"].encode("latin-1").decode() == SECRETS["HEADER_TOKEN"]
    assert sent("query")["k"] == SECRETS["QUERY_KEY"]
    assert sent("api_key")["x-key"] == SECRETS["HEADER_KEY"]


def test_runs_ended_as_the_server_answered(used: Any) -> None:
    _, api, runs = used
    ended = {
        api.get(f"/runs/{run_id}").json()["workflow"]: api.get(f"/runs/{run_id}").json()["status"] for run_id in runs
    }
    assert {name for name, status in ended.items() if status == "completed"} == {f"use_{kind}_200" for kind in USES}


def test_no_answer_has_one(used: Any) -> None:
    server, api, runs = used
    paths = ["/secrets", "/audit?limit=100", "/traces?limit=100", "/runs?limit=100", "/workflows?limit=100"]
    paths += [f"/insights/{one}" for one in ("reliability", "failures", "latency", "cost", "trends")]
    for run_id in runs:
        paths += [
            f"/runs/{run_id}{rest}" for rest in ("", "/events?limit=100", "/stream", "/export", "/export?format=csv")
        ]
    seen = 0
    for path in paths:
        answer = api.get(path)
        assert answer.status_code == 200, path
        assert leaks(answer.text) == [], path
        seen += len(answer.text)
    assert seen > 100_000
    metrics = httpx.get(server.url + "/metrics", trust_env=False)
    assert "reflux" in metrics.text
    assert leaks(metrics.text) == []


def test_no_log_has_one(used: Any) -> None:
    server, _, _ = used
    assert server.log
    assert leaks(server.log) == []


async def test_no_table_and_no_file_has_one(used: Any) -> None:
    server, api, _ = used
    api.get("/traces")  # the traces are there now
    connection = await asyncpg.connect(_dsn(server))
    try:
        tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        rows = 0
        for (table,) in tables:
            for row in await connection.fetch(f'SELECT t::text FROM "{table}" AS t'):
                assert leaks(row[0]) == [], table
                rows += 1
        assert rows > 100
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()
    read = 0
    for path in server.home.rglob("*"):
        if path.is_file():
            read += 1
            assert leaks(_text(path)) == [], path
    assert read > 100
    # What must be there, as a proof that reading the files finds things.
    assert any("use_bearer_200" in _text(path) for path in server.home.rglob("pg_wal/*") if path.is_file())
    key = server.home / "secret.key"
    assert key.stat().st_mode & 0o077 == 0


def test_a_replaced_and_deleted_secret_is_gone(used: Any, target: Target) -> None:
    _, api, _ = used
    assert api.post("/secrets", json={"name": "GONE", "value": "S3cret first value"}).status_code == 201
    assert api.post("/secrets", json={"name": "GONE", "value": "S3cret other value"}).status_code == 201
    call = {"url": f"{target.url}/echo/200/gone", "auth": {"type": "bearer", "token": "{{ secrets.GONE }}"}}
    create(api, one_step("gone", "http.request", call))
    run = execute(api, "gone")
    assert leaks(json.dumps(run)) == []
    assert target.to("/echo/200/gone")[0].headers["authorization"] == "Bearer S3cret other value"
    assert api.delete("/secrets/GONE").status_code == 204
    run = execute(api, "gone")
    assert run["status"] == "failed"
    assert "GONE" in run["error"]["message"]
    assert len(target.to("/echo/200/gone")) == 1


@pytest.mark.parametrize(
    "with_",
    [
        {"url": "http://127.0.0.1:9/{{ secrets.BEARER_TOKEN }}"},
        {"url": "http://127.0.0.1:9/", "query": {"a": "{{ secrets.BEARER_TOKEN }}"}},
        {"url": "http://127.0.0.1:9/", "method": "POST", "json": {"a": "{{ secrets.BEARER_TOKEN }}"}},
        {"url": "http://127.0.0.1:9/", "headers": {"X": "{{ size(secrets.BEARER_TOKEN) }}"}},
    ],
)
def test_a_secret_stands_in_secret_fields_only(used: Any, with_: dict[str, Any]) -> None:
    _, api, _ = used
    answer = api.post("/workflows/validate", json=one_step("x", "http.request", with_))
    assert answer.json()["valid"] is False, answer.text
    for node in ({"value": "{{ secrets.BEARER_TOKEN }}"}, {"value": "{{ secrets }}"}):
        assert api.post("/workflows/validate", json=one_step("x", with_=node)).json()["valid"] is False


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "replace")


def _dsn(server: RunningServer) -> str:
    """The address of the embedded database, from what it wrote about itself."""
    pid_file = next(server.home.rglob("postmaster.pid"))
    lines = pid_file.read_text().splitlines()
    return f"postgresql://postgres@/postgres?host={quote(lines[4], safe='')}&port={lines[3]}"
