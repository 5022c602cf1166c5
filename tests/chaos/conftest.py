"""A server to be killed, a server to be called, and a client that goes on trying."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from bench.chaos.called import CalledServer, free_port
from bench.chaos.server import Client, RefluxServer
from bench.chaos.trial import short_home

USER_NODES = Path(__file__).with_name("user_nodes.py")


@pytest.fixture
def base() -> Iterator[Path]:
    # Short, because PostgreSQL's socket lies below it; passable, because PostgreSQL may run as another user.
    path = Path(tempfile.mkdtemp(prefix="reflux-chaos-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def called() -> Iterator[CalledServer]:
    server = CalledServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def server(base: Path) -> Iterator[RefluxServer]:
    with RefluxServer(short_home(base), free_port(), {"REFLUX_NODES": str(USER_NODES)}) as running:
        yield running


@pytest.fixture
async def client(server: RefluxServer) -> AsyncIterator[Client]:
    await server.ready()
    async with Client(server.url) as opened:
        yield opened
