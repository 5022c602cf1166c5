"""The trace store on ClickHouse: one code path for the embedded engine and for a server."""
