"""Everything that can be set from outside. Only the composition root reads it; rooms receive values."""

import base64
import binascii
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from core.errors import Fault, Invalid

PREFIX = "REFLUX_"
Network = IPv4Network | IPv6Network


class Settings(BaseSettings):
    """One field for each variable `REFLUX_<NAME>`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True, hide_input_in_errors=True
    )

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65_535, description="Port to listen on; 0 takes a free one.")
    home: Path = Field(Path("~/.reflux"), description="Data directory.")
    api_key: SecretStr | None = Field(None, description="The first admin key; without it one is made up and printed.")
    database_url: SecretStr | None = Field(None, description="PostgreSQL server; without it one is embedded.")
    clickhouse_url: SecretStr | None = Field(None, description="ClickHouse server; without it one is embedded.")
    broker_url: SecretStr | None = Field(
        None, description="Redis or RabbitMQ, for steps that workers perform; without it they run in the server."
    )
    object_store_url: str | None = Field(
        None, max_length=2_000, description="Bucket for large values, such as s3://bucket/prefix; default: in the home."
    )
    egress_allow: Annotated[tuple[Network, ...], NoDecode] = Field(
        (), description="Private networks that outgoing calls may reach, with commas between."
    )
    nodes: Annotated[tuple[str, ...], NoDecode] = Field((), description="Modules or files with nodes, commas between.")
    events_retention_days: int = Field(30, ge=1, le=3_650, description="Days that finished runs are kept.")
    traces_retention_days: int = Field(90, ge=1, le=3_650, description="Days that traces are kept.")
    max_body_bytes: int = Field(8 * 1024 * 1024, ge=1_024, le=256 * 1024 * 1024, description="Largest request body.")
    model_prices: str | None = Field(
        None, max_length=65_536, description="Prices of language models in USD per million tokens, as JSON."
    )
    secret_key: SecretStr | None = Field(None, description="Base64 of the 32 bytes that secrets are encrypted with.")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "console"

    @property
    def objects(self) -> Path | str:
        """Where large values are kept: a directory or a URL."""
        return self.object_store_url or self.home / "objects"

    @field_validator("home")
    @classmethod
    def _expand(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("log_level", "log_format", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @field_validator("nodes", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return _parts(value)

    @field_validator("egress_allow", mode="before")
    @classmethod
    def _networks(cls, value: Any) -> Any:
        return tuple(_network(part) if isinstance(part, str) else part for part in _parts(value))

    @field_validator("database_url")
    @classmethod
    def _is_postgres(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError("must begin with postgresql://")
        return value

    @field_validator("clickhouse_url")
    @classmethod
    def _is_clickhouse(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            try:
                parts = urlsplit(value.get_secret_value())
                fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
            except ValueError:
                fits = False
            if not fits or parts.query or parts.fragment:
                raise ValueError("must have the form http(s)://user:password@host:port/database")
        return value

    @field_validator("broker_url")
    @classmethod
    def _is_broker(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(
            ("redis://", "rediss://", "amqp://", "amqps://")
        ):
            raise ValueError("must begin with redis://, rediss://, amqp:// or amqps://")
        return value

    @field_validator("secret_key")
    @classmethod
    def _is_key(cls, value: SecretStr | None) -> SecretStr | None:
        try:
            if value is None or len(base64.b64decode(value.get_secret_value(), validate=True)) == 32:
                return value
        except binascii.Error:
            pass
        raise ValueError("must be 32 bytes in base64; make one with: openssl rand -base64 32")


def load_settings(**overrides: Any) -> Settings:
    """Read the environment; `overrides` (from the command line) win, except those that are None.

    Raises:
        Invalid: with one sentence for each bad variable, naming it and never repeating a value.
    """
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        faults = [_fault(one["loc"], one["type"], one["msg"]) for one in error.errors()]
        raise Invalid("; ".join(fault.message for fault in faults), faults) from None


def _fault(location: tuple[int | str, ...], code: str, message: str) -> Fault:
    variable = f"{PREFIX}{str(location[0]).upper()}"
    sentence = message.removeprefix("Value error, ").removeprefix("Input should be ")
    sentence = sentence if sentence.startswith("must") else f"must be {sentence}"
    return Fault(f"$.{location[0]}", code, f"{variable} {sentence}")


def _parts(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _network(part: str) -> Network:
    try:
        return ip_network(part)
    except ValueError:
        raise ValueError(f"must be networks such as 10.0.0.0/8 with commas between; {part!r} is not one") from None
