"""One real server for all tests of the command line, a small shop to call, and `reflux` as a process."""

import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from docs.examples.shop import Shop, open_shop
from tests.server import KEY, REFLUX, RunningServer, clean_environment, running_server


@dataclass(frozen=True, slots=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Reflux:
    """The command line, pointed at a server."""

    def __init__(self, url: str, directory: Path) -> None:
        self.environment = {"REFLUX_URL": url, "REFLUX_API_KEY": KEY, "REFLUX_HOME": str(directory / "no-home")}
        self.directory = directory

    def __call__(self, *arguments: str, stdin: str = "", env: Mapping[str, str] | None = None) -> Result:
        done = subprocess.run(
            [str(REFLUX), *arguments],
            cwd=self.directory,
            env=clean_environment({**self.environment, **(env or {})}),
            input=stdin.encode(),
            capture_output=True,
            check=False,
            timeout=60,
        )
        result = Result(done.returncode, done.stdout.decode(), done.stderr.decode())
        assert "Traceback" not in result.err, result.err
        return result

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [str(REFLUX), *arguments],
            cwd=self.directory,
            env=clean_environment(self.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )


@pytest.fixture(scope="session")
def server() -> Iterator[RunningServer]:
    with running_server() as running:
        yield running


@pytest.fixture(scope="session")
def shop() -> Iterator[Shop]:
    with open_shop() as opened:
        yield opened


@pytest.fixture
def reflux(server: RunningServer, tmp_path: Path) -> Reflux:
    return Reflux(server.url, tmp_path)


@pytest.fixture
def offline(tmp_path: Path) -> Reflux:
    """The command line with no server where it looks for one."""
    return Reflux("http://127.0.0.1:9", tmp_path)
