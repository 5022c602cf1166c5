"""Secrets, API keys and the audit log."""

import uuid
from datetime import datetime
from typing import Any

from pydantic import Field

from api.models.shape import Page, Shape
from core.account import Role


class SecretStored(Shape):
    """A secret that was stored."""

    name: str = Field(examples=["PAYMENT_TOKEN"])


class Secret(SecretStored):
    """A secret, without its value."""

    created_at: datetime
    updated_at: datetime
    updated_by: str = Field(description="The name of the key that stored it last.", examples=["ci"])


class SecretPage(Page[Secret]):
    """All secrets."""


class Key(Shape):
    """An API key, without the key itself."""

    id: uuid.UUID
    name: str = Field(examples=["ci"])
    role: Role
    prefix: str = Field(description="The key's first characters.")
    created_at: datetime
    created_by: str = Field(description="The name of the key that made it.")
    last_used_at: datetime | None = Field(description="Null when it was never used.")
    revoked_at: datetime | None = Field(description="Null while it is valid.")


class NewKey(Key):
    """An API key that was just made."""

    key: str = Field(description="The key itself: shown this once.")


class KeyPage(Page[Key]):
    """All API keys."""


class AuditEntry(Shape):
    """One act."""

    id: uuid.UUID
    at: datetime
    actor: str = Field(description="The name of the key that did it.", examples=["ci"])
    action: str = Field(description="What was done, as `noun.verb`.", examples=["secret.put"])
    target: str = Field(description="To what: an id or a name.", examples=["PAYMENT_TOKEN"])
    detail: dict[str, Any] = Field(description="Small facts, by the action; never a secret.")


class AuditPage(Page[AuditEntry]):
    """A page of acts."""
