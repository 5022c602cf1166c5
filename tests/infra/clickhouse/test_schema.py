from uuid import uuid4

import pytest
from clickhouse_connect.driver.client import Client

from core.errors import Conflict
from infra.clickhouse.client import ClickHouse
from infra.clickhouse.columns import table_of
from infra.clickhouse.schema import STATEMENTS, applied_version, apply_schema
from tests.infra.clickhouse.rows import row


@pytest.fixture
def empty() -> str:
    return f"schema_{uuid4().hex[:12]}"


async def inside(clickhouse: ClickHouse, database: str, job):
    """Run a job in a database of its own, and lead the client back."""

    def run(client: Client):
        before = client.database
        client.command(f"CREATE DATABASE IF NOT EXISTS {database}")
        client.database = database
        try:
            return job(client)
        finally:
            client.database = before

    return await clickhouse.write(run)


def definition(client: Client) -> str:
    sql = "SELECT create_table_query FROM system.tables WHERE database = currentDatabase() AND name = 'traces'"
    return str(client.query(sql).result_rows[0][0])


async def test_applies_once_and_again_without_effect(clickhouse: ClickHouse, empty: str) -> None:
    def job(client: Client) -> None:
        assert applied_version(client) == 0
        assert apply_schema(client, 30) == len(STATEMENTS)
        first = definition(client)
        client.insert_arrow("traces", table_of([row("w")]))
        assert apply_schema(client, 30) == len(STATEMENTS)
        assert definition(client) == first
        versions = client.query("SELECT version FROM schema_versions ORDER BY version").result_rows
        assert [one[0] for one in versions] == list(range(1, len(STATEMENTS) + 1))
        # A crash between a statement and its record makes it run again.
        for statement in STATEMENTS:
            client.command(statement)
        assert definition(client) == first
        assert client.query("SELECT count() FROM traces").result_rows == [(1,)]

    await inside(clickhouse, empty, job)


async def test_older_database_is_brought_up_to_date(clickhouse: ClickHouse, empty: str) -> None:
    def job(client: Client) -> None:
        apply_schema(client, None, STATEMENTS[:1])
        fresh = ["assigned_arm", "served_by", "breaker"]
        client.insert_arrow("traces", table_of([row("w")]).drop_columns(fresh))
        assert "by_run" not in definition(client)
        apply_schema(client, None)
        assert "by_run" in definition(client)
        assert applied_version(client) == len(STATEMENTS)
        found = client.query("SELECT run_id, assigned_arm, served_by, breaker FROM traces").result_rows
        assert found == [("run-0", "", "", "")]

    await inside(clickhouse, empty, job)


async def test_newer_database_is_left_alone(clickhouse: ClickHouse, empty: str) -> None:
    def job(client: Client) -> None:
        apply_schema(client, None)
        client.command("INSERT INTO schema_versions (version) VALUES (99)")
        with pytest.raises(Conflict, match="V99"):
            apply_schema(client, None)

    await inside(clickhouse, empty, job)


async def test_retention_follows_the_setting(clickhouse: ClickHouse, empty: str) -> None:
    def job(client: Client) -> None:
        apply_schema(client, None)
        assert " TTL " not in definition(client)
        apply_schema(client, 30)
        assert "toIntervalDay(30)" in definition(client)
        apply_schema(client, 3)
        assert "toIntervalDay(3)" in definition(client)
        # Retention counts from the day of storing: old history that is imported today stays.
        client.insert_arrow("traces", table_of([row("w")]))
        client.command(
            "INSERT INTO traces (attempt_id, workspace, start, ingested_at)"
            " VALUES (generateUUIDv4(), 'w', now(), now() - INTERVAL 4 DAY)"
        )
        client.command("OPTIMIZE TABLE traces FINAL")
        assert client.query("SELECT run_id FROM traces").result_rows == [("run-0",)]
        apply_schema(client, None)
        assert " TTL " not in definition(client)

    await inside(clickhouse, empty, job)
