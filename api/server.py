"""Serves the application on one port until it is told to stop."""

import gc
import logging
import resource
import signal
import socket
import sys
from collections.abc import Callable

import uvicorn

from api.app import create_app
from api.services import Services
from api.wiring import open_services
from core.errors import Conflict
from infra.settings import Settings
from infra.telemetry import configure_logging

_GRACE_SECONDS = 1
"""How long open requests may go on after a signal to stop; event streams never end by themselves."""


class PortTaken(Conflict):
    """Another program listens on the port."""


def listening_socket(host: str, port: int) -> socket.socket:
    """A bound socket. Raises PortTaken with a way out, and OSError-like Conflict for an address that is not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise PortTaken(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another with --port or REFLUX_PORT"
        ) from None
    return sock


def serve(settings: Settings, on_ready: Callable[[Services, str], None]) -> None:
    """Run the server; returns after SIGTERM or SIGINT.

    Args:
        on_ready: told the services and the base URL when everything runs.

    Raises:
        PortTaken, HomeInUse, Unavailable: it cannot start.
    """
    configure_logging(settings.log_level, settings.log_format)
    _allow_many_connections()
    logging.getLogger("alembic").setLevel(logging.WARNING)
    sock = listening_socket(settings.host, settings.port)
    port = sock.getsockname()[1]
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    failures: list[Exception] = []

    def ready(services: Services) -> None:
        _calm_garbage_collection()
        on_ready(services, f"http://{host}:{port}")

    app = create_app(
        lambda: open_services(settings),
        settings.max_body_bytes,
        ready,
        failures.append,
    )
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=2048,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    server = uvicorn.Server(config)
    # uvicorn stops in order and then raises the signal again for whoever listened before it: here, to leave with 0.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # The caller gets the reason as an exception; uvicorn would log its traceback and leave the process.
    logging.getLogger("uvicorn.error").addFilter(lambda _: not failures)
    try:
        server.run(sockets=[sock])
    except SystemExit:
        if not failures:
            raise
    if failures:
        raise failures[0]


def _calm_garbage_collection() -> None:
    """What is loaded now stays: leave it out of collections, and collect less often (it took 15 % of the hot path)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _allow_many_connections() -> None:
    """Thousands of runs may wait on a connection each: take all the descriptors that the system lets us have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
