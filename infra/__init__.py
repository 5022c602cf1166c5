"""Adapters to the outside: settings, PostgreSQL, ClickHouse, object store, clock, telemetry."""
