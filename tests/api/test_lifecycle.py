"""Start, stop, start again: clear errors, a quick end, and everything still there."""

import os
import subprocess
import threading
import time
from typing import Any

import httpx

from tests.api.conftest import API, create, execute, finished, one_step
from tests.api.target import Target
from tests.server import REFLUX, RunningServer, clean_environment, running_server


def _client(server: RunningServer) -> httpx.Client:
    client = server.client()
    client.base_url = httpx.URL(server.url + API)
    return client


def _up(server: RunningServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(REFLUX), "up", *arguments],
        env=clean_environment(server.env),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_home_in_use_names_the_process(server: RunningServer) -> None:
    assert server.process is not None
    ended = _up(server, "--home", str(server.home), "--port", "0")
    assert ended.returncode == 1
    assert str(server.process.pid) in ended.stderr
    assert "Traceback" not in ended.stderr + ended.stdout
    assert httpx.get(server.url + "/readyz", trust_env=False).status_code == 200


def test_a_taken_port_is_named(server: RunningServer) -> None:
    home = server.home.with_name("other")
    ended = _up(server, "--home", str(home), "--port", str(server.port))
    assert ended.returncode == 1
    assert str(server.port) in ended.stderr
    assert "--port" in ended.stderr
    assert "Traceback" not in ended.stderr + ended.stdout
    assert not list(home.glob("*")) if home.exists() else True


def test_stop_with_a_stream_and_a_hanging_step_and_start_again(target: Target) -> None:
    with running_server() as server:
        with _client(server) as api:
            create(api, one_step("done"))
            done = execute(api, "done", {"x": 1})
            create(api, one_step("hangs", "http.request", {"url": f"{target.url}/hang/lifecycle"}, timeout="1m"))
            hangs = execute(api, "hangs", wait=0)
            target.wait_for("/hang/lifecycle")
        ended: list[str] = []
        waited: list[dict[str, Any]] = []

        def watch() -> None:
            with _client(server) as api, api.stream("GET", f"/runs/{hangs['id']}/stream") as stream:
                try:
                    for line in stream.iter_lines():
                        ended.append(line)
                except httpx.TransportError:
                    pass

        def wait() -> None:
            with _client(server) as api:
                waited.append(execute(api, "hangs", wait=60))

        threads = [threading.Thread(target=watch), threading.Thread(target=wait)]
        for thread in threads:
            thread.start()
        target.wait_for("/hang/lifecycle", 2)
        deadline = time.monotonic() + 10
        while not any(line.startswith("data:") for line in ended) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert server.process is not None
        begun = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begun < 5
        for thread in threads:
            thread.join(5)
            assert not thread.is_alive()
        assert any(line.startswith("data:") for line in ended)
        assert [run["status"] for run in waited] == ["running"], "the caller is told that the run is accepted"
        assert "Traceback" not in server.log, server.log[-3000:]

        server.start()
        with _client(server) as api:
            assert api.get(f"/runs/{done['id']}").json() == done
            assert api.get("/traces", params={"run_id": done["id"]}).json()["items"]
            target.wait_for("/hang/lifecycle", 4)  # both are taken up again: a GET may be repeated
            for run in (hangs, *waited):
                assert api.post(f"/runs/{run['id']}/cancel").json()["status"] == "cancelled"


def test_without_a_home_variable(tmp_path_factory: object) -> None:
    """As a service manager starts it: no HOME, only the settings."""
    with running_server() as server:
        server.stop()
        environment = {name: value for name, value in clean_environment(server.env).items() if name != "HOME"}
        command = [str(REFLUX), "up", "--home", str(server.home), "--port", str(server.port)]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        server.process = process  # type: ignore[assignment]
        server.wait_ready()
        with _client(server) as api:
            create(api, one_step("w"))
            assert finished(api, execute(api, "w", {"x": 1})["id"])["status"] == "completed"
        assert os.getpid() != process.pid
