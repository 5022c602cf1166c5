"""Runs a page of the documentation as its reader would.

Fenced blocks are taken in order. What their info string says:

```yaml file=NAME      the text is saved under that name (any language)
```bash server         starts the server; the one before is stopped; its home stays
```bash run            is run by bash; must end with 0
```bash run stopped    the same, with the server stopped before it
```text expect         each line stands in what the last `run` block has printed

Other blocks are only read. Addresses and ports of the page are replaced by those of the test.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.server import KEY, clean_environment, free_port

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^```(\w+)[ ]?([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_BLOCK_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Block:
    language: str
    info: str
    text: str
    line: int


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text()
    for match in _FENCE.finditer(text):
        yield Block(match[1], match[2].strip(), match[3], text.count("\n", 0, match.start()) + 1)


class Reader:
    """Follows one page in a directory of its own."""

    def __init__(self, directory: Path, home: Path, replaced: Mapping[str, str]) -> None:
        self.directory = directory
        self.home = home
        self.port = free_port()
        self.replaced = {
            "127.0.0.1:8000": f"127.0.0.1:{self.port}",
            "9000": str(free_port()),
            **replaced,
        }
        self.processes: list[subprocess.Popen[bytes]] = []
        self.server: subprocess.Popen[bytes] | None = None
        self.output = ""
        (directory / "docs").symlink_to(ROOT / "docs")

    def read(self, page: Path) -> None:
        for block in blocks(page):
            where = f"{page.relative_to(ROOT)}:{block.line}"
            text = self._local(block.text)
            words = block.info.split()
            if block.info.startswith("file="):
                (self.directory / block.info.removeprefix("file=")).write_text(text)
            elif words[:1] == ["server"]:
                self._start_server(text, where)
            elif words[:1] == ["run"]:
                if "stopped" in words:
                    self.stop_server()
                self._run(text, where)
            elif words[:1] == ["expect"]:
                for line in filter(None, text.splitlines()):
                    assert line in self.output, f"{where}: {line!r} is not in\n{self.output}"

    def close(self) -> None:
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        self.stop_server()

    def stop_server(self) -> None:
        if self.server is not None:
            self.server.send_signal(signal.SIGTERM)
            assert self.server.wait(20) == 0
            self.server = None

    def _start_server(self, script: str, where: str) -> None:
        self.stop_server()
        # `exec`, so that the signal reaches the server and not the shell.
        script = script.replace("reflux up", "exec reflux up")
        with (self.directory / "server.log").open("ab") as log:
            self.server = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", script],
                cwd=self.directory,
                env=self._environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + _BLOCK_SECONDS
        while time.monotonic() < deadline:
            log_text = (self.directory / "server.log").read_text()
            assert self.server.poll() is None, f"{where}: the server ended:\n{log_text[-4000:]}"
            try:
                if httpx.get(f"http://127.0.0.1:{self.port}/readyz", trust_env=False).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
        raise AssertionError(f"{where}: the server is not ready")

    def _run(self, script: str, where: str) -> None:
        # A file and not a pipe: what a block leaves in the background would keep a pipe open.
        path = self.directory / "output.txt"
        with path.open("wb") as out:
            process = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", script],
                cwd=self.directory,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
            self.processes.append(process)
            code = process.wait(_BLOCK_SECONDS)
        self.output = path.read_text()
        assert code == 0, f"{where} ended with {code}:\n{self.output}"

    def _environment(self) -> dict[str, str]:
        programs = str(Path(sys.executable).parent)
        return {
            **clean_environment(),
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "REFLUX_HOME": str(self.home),
            "REFLUX_PORT": str(self.port),
            "REFLUX_URL": f"http://127.0.0.1:{self.port}",
            "REFLUX_API_KEY": KEY,
            "no_proxy": "127.0.0.1",
        }

    def _local(self, text: str) -> str:
        for old, new in self.replaced.items():
            text = text.replace(old, new)
        return text
