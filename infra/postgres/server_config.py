"""Server settings of the embedded PostgreSQL: durable, small, made for many short group commits."""

import os
from collections.abc import Mapping
from pathlib import Path

FILE_NAME = "reflux.conf"

SETTINGS: Mapping[str, str] = {
    # Promises: what is committed survives a power cut.
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    # Reach: a Unix socket in a private directory, no network.
    "listen_addresses": "''",
    "unix_socket_permissions": "0700",
    "max_connections": "50",
    # Memory: few processes, each of them small.
    "shared_buffers": "96MB",
    "huge_pages": "off",
    "work_mem": "8MB",
    "maintenance_work_mem": "64MB",
    "io_method": "sync",
    "jit": "off",
    "max_worker_processes": "2",
    "max_parallel_workers_per_gather": "0",
    "max_parallel_maintenance_workers": "0",
    "max_logical_replication_workers": "0",
    "autovacuum_max_workers": "2",
    # Write-ahead log: long checkpoint distances, because each first touch of a page after one logs the whole page.
    "wal_level": "replica",
    "max_wal_senders": "2",
    "wal_compression": "pglz",
    "wal_buffers": "4MB",
    "max_wal_size": "1GB",
    "min_wal_size": "160MB",
    "checkpoint_timeout": "15min",
    "checkpoint_completion_target": "0.9",
    "random_page_cost": "1.1",
    # Vacuum: hot tables are updated thousands of times a second; look often and do not dawdle.
    "autovacuum_naptime": "15s",
    "autovacuum_vacuum_scale_factor": "0.05",
    "autovacuum_vacuum_cost_delay": "1ms",
    "autovacuum_vacuum_insert_scale_factor": "0.5",
    # Log: faults only, and never a value: neither bound parameters nor the DETAIL line that quotes rows.
    "log_min_messages": "warning",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "log_checkpoints": "off",
    "log_autovacuum_min_duration": "-1",
    "log_timezone": "'UTC'",
    "timezone": "'UTC'",
    "update_process_title": "off",
    "max_locks_per_transaction": "256",
}
"""One setting per line of the included file. Every name is valid in PostgreSQL 18."""


def write_config(data_directory: Path, socket_directory: Path, overrides: Mapping[str, str]) -> None:
    """Write the included file and make sure that `postgresql.conf` includes it."""
    settings = {**SETTINGS, "unix_socket_directories": f"'{socket_directory}'", **overrides}
    text = "".join(f"{name} = {value}\n" for name, value in settings.items())
    _replace(data_directory / FILE_NAME, text)
    main = data_directory / "postgresql.conf"
    include = f"include_if_exists '{FILE_NAME}'"
    present = main.read_text()
    if include not in present:
        _replace(main, f"{present}\n{include}\n")


def _replace(path: Path, text: str) -> None:
    owner = path.parent.stat()
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(text)
    fresh.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(fresh, owner.st_uid, owner.st_gid)
    fresh.replace(path)
