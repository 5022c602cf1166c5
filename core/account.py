"""Who calls: API keys, their roles, and the principal that a verified key stands for."""

import uuid
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from core.ids import Workspace


class Role(StrEnum):
    """What a key may do. Each role may do all that the ones before it may."""

    VIEWER = "viewer"
    EDITOR = "editor"
    APPROVER = "approver"
    ADMIN = "admin"

    def covers(self, needed: "Role") -> bool:
        """Whether this role is enough where `needed` is asked for."""
        return _ORDER.index(self) >= _ORDER.index(needed)


_ORDER = tuple(Role)


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller.

    Attributes:
        key_id: the API key that was shown.
        name: the key's name; goes into `created_by` and the audit log.
    """

    key_id: uuid.UUID
    workspace: Workspace
    name: str
    role: Role


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is known about a key. The key itself is shown once, when it is made, and only its hash is kept.

    Attributes:
        prefix: the key's first characters, so that a person can tell keys apart.
    """

    id: uuid.UUID
    workspace: Workspace
    name: str
    role: Role
    prefix: str
    created_at: datetime
    created_by: str
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None
