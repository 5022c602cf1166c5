"""`reflux up`: the first key, and clear errors."""

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.cli.up import write_key
from tests.cli.conftest import Reflux
from tests.server import REFLUX, RunningServer, clean_environment, free_port, short_home


@pytest.fixture
def home() -> Iterator[Path]:
    path = short_home()
    yield path
    RunningServer(path).stop_postgres()
    shutil.rmtree(path.parent, ignore_errors=True)


def up(*arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [str(REFLUX), "up", *arguments],
        check=False,
        env=clean_environment(env),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_the_first_key_is_shown_once_and_kept_for_this_machine(home: Path, tmp_path: Path) -> None:
    server = RunningServer(home, env={"REFLUX_API_KEY": ""}).start()
    try:
        file = home / "api-key"
        key = file.read_text().strip()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert f"API key (admin, shown this once): {key}\n" in server.log
        assert f"--url {server.url}" in server.log
        reflux = Reflux(server.url, tmp_path)
        kept = {"REFLUX_API_KEY": "", "REFLUX_HOME": str(home)}
        assert reflux("runs", env=kept).code == 0
        assert reflux("runs", env={"REFLUX_API_KEY": ""}).code == 2
        # A locked home and a taken port are said in one sentence.
        locked = up("--home", str(home), "--port", str(free_port()))
        assert locked.returncode == 1
        assert "is in use by process" in locked.stderr
        taken = up("--home", str(tmp_path / "x"), "--port", str(server.port))
        assert taken.returncode == 1
        assert "--port" in taken.stderr
        assert server.stop() == 0
        server.start()
        assert server.log.count(key) == 1
    finally:
        assert server.stop() == 0


def test_a_chosen_key_is_neither_shown_nor_kept(home: Path) -> None:
    server = RunningServer(home).start()
    server.stop()
    assert server.key not in server.log
    assert not (home / "api-key").exists()


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("REFLUX_PORT", "abc", "REFLUX_PORT must be"),
        ("REFLUX_CLICKHOUSE_URL", "ftp://x", "REFLUX_CLICKHOUSE_URL must have the form"),
        ("REFLUX_EGRESS_ALLOW", "nonsense", "REFLUX_EGRESS_ALLOW must be networks"),
    ],
)
def test_bad_settings_leave_with_2(name: str, value: str, sentence: str) -> None:
    done = up(**{name: value})
    assert done.returncode == 2
    assert sentence in done.stderr


def test_missing_nodes_leave_with_a_sentence(home: Path) -> None:
    done = up("--home", str(home), "--port", "0", REFLUX_NODES="/no/such/nodes.py")
    assert done.returncode == 1
    assert "there is no file '/no/such/nodes.py'" in done.stderr


def test_the_key_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("mine")
    os.symlink(other, tmp_path / "api-key")
    write_key(tmp_path, "rfx_new")
    assert other.read_text() == "mine"
    assert not (tmp_path / "api-key").is_symlink()
    assert (tmp_path / "api-key").read_text() == "rfx_new\n"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["api-key", "other"]


def test_the_key_of_this_machine_is_not_shown_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from api.cli.connection import Connection

    write_key(tmp_path, "rfx_local")
    monkeypatch.setenv("REFLUX_HOME", str(tmp_path))
    local = Connection("http://127.0.0.1:1", None).streaming(1)
    remote = Connection("https://reflux.example", None).streaming(1)
    assert local.headers["Authorization"] == "Bearer rfx_local"
    assert "Authorization" not in remote.headers
