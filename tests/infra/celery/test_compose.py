"""compose.yaml says what the code says; it cannot be run where the images are not."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from api.cli.main import app
from infra.settings import PREFIX, Settings, load_settings

ROOT = Path(__file__).parents[3]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
EXAMPLE = dict(
    line.split("=", 1) for line in (ROOT / ".env.example").read_text().splitlines() if line and line[0] != "#"
)
OURS = [name for name, one in SERVICES.items() if one.get("image") == "reflux"]
_VARIABLE = re.compile(r"\$\{(\w+)(?::[?-]([^}]*))?\}")


def filled(text: str) -> str:
    return _VARIABLE.sub(lambda found: EXAMPLE[found[1]], text)


def test_the_services() -> None:
    assert set(SERVICES) == {"postgres", "clickhouse", "redis", "server", "worker-http", "worker-ai"}
    assert OURS == ["server", "worker-http", "worker-ai"]
    for name, service in SERVICES.items():
        assert service["healthcheck"]["test"], name
        for other, wanted in service.get("depends_on", {}).items():
            assert wanted == {"condition": "service_healthy"}
            assert other in SERVICES
        for volume in service.get("volumes", ()):
            assert volume.partition(":")[0] in COMPOSE["volumes"]
    assert (ROOT / SERVICES["server"]["build"]["dockerfile"]).is_file()


@pytest.mark.parametrize("name", OURS)
def test_each_variable_is_a_setting(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {f"{PREFIX}{field.upper()}" for field in Settings.model_fields}
    environment = SERVICES[name]["environment"]
    assert set(environment) <= known
    for variable in known:
        monkeypatch.delenv(variable, raising=False)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, filled(value))
    settings = load_settings()
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == "postgresql://reflux:change-me-postgres@postgres:5432/reflux"
    assert settings.broker_url is not None
    assert settings.secret_key is not None


def test_the_example_names_what_is_used_and_nothing_else() -> None:
    used = {found[0] for found in _VARIABLE.findall((ROOT / "compose.yaml").read_text())}
    assert used == set(EXAMPLE)


@pytest.mark.parametrize("name", OURS)
def test_each_command_exists(name: str) -> None:
    verb, *arguments = SERVICES[name]["command"]
    command = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
    options = {option for parameter in command.params for option in parameter.opts}
    assert {one for one in arguments if one.startswith("--")} <= options
