import io
import json
import logging
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest
import structlog

from core.errors import Invalid
from infra.settings import load_settings
from infra.telemetry import configure_logging


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("REFLUX_")]:
        monkeypatch.delenv(name)


def test_defaults() -> None:
    settings = load_settings()
    assert (settings.host, settings.port, settings.max_body_bytes) == ("127.0.0.1", 8000, 8 * 1024 * 1024)
    assert settings.home == Path("~/.reflux").expanduser()
    assert settings.api_key is None


def test_environment_and_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFLUX_PORT", "9000")
    monkeypatch.setenv("REFLUX_HOST", "0.0.0.0")
    monkeypatch.setenv("REFLUX_EGRESS_ALLOW", "127.0.0.0/8, 10.1.2.3")
    monkeypatch.setenv("REFLUX_NODES", "my.nodes,./more.py")
    monkeypatch.setenv("REFLUX_API_KEY", "rfx_very-secret")
    settings = load_settings(host="127.0.0.2", home=None)
    assert (settings.host, settings.port) == ("127.0.0.2", 9000)
    assert settings.egress_allow == (ip_network("127.0.0.0/8"), ip_network("10.1.2.3"))
    assert settings.nodes == ("my.nodes", "./more.py")
    assert "very-secret" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "web"),
        ("PORT", "70000"),
        ("EGRESS_ALLOW", "10.0.0.0/8,home"),
        ("DATABASE_URL", "mysql://u:hunter2@h/d"),
        ("BROKER_URL", "kafka://hunter2"),
        ("SECRET_KEY", "hunter2"),
        ("LOG_LEVEL", "loud"),
        ("EVENTS_RETENTION_DAYS", "0"),
    ],
)
def test_a_bad_value_names_its_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"REFLUX_{name}", value)
    with pytest.raises(Invalid, match=rf"^REFLUX_{name} must ") as caught:
        load_settings()
    assert "hunter2" not in caught.value.detail


@pytest.fixture
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.usefixtures("_restore_logging")
@pytest.mark.parametrize("form", ["json", "console"])
def test_secrets_stay_out_of_the_log(form: str) -> None:
    out = io.StringIO()
    configure_logging("info", form, out)  # type: ignore[arg-type]
    key = "rfx_" + "k" * 43
    log = structlog.get_logger("test")
    log.info("hello", password="hunter2", request={"Authorization": "Bearer hunter2", "n": [{"api_key": "hunter2"}]})
    log.info(f"key {key}", url="postgresql://u:hunter2@host/d", header="Bearer hunter2", tokens_in=5)
    log.debug("not this")
    logging.getLogger("library").warning("said %s", key)
    try:
        raise ValueError(key)
    except ValueError:
        log.exception("failed")
    text = out.getvalue()
    assert "hunter2" not in text
    assert key not in text
    assert "not this" not in text
    assert "said" in text
    assert "ValueError" in text
    if form == "json":
        lines = [json.loads(line) for line in text.splitlines()]
        assert lines[1]["tokens_in"] == 5
        assert lines[0]["level"] == "info"
