"""Secrets: encrypted with AES-256-GCM before they reach the database, and bound to their name."""

import base64
import binascii
import hashlib
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from secrets import token_bytes

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from core.clock import Clock
from core.errors import Conflict, Fault, Invalid, NotFound
from core.ids import Workspace
from infra.postgres.connection import transaction
from infra.postgres.tables import secrets

SHORTEST, LONGEST = 4, 65_536
_NONCE = 12
_KEY = 32


@dataclass(frozen=True, slots=True)
class SecretName:
    """What may be told about a secret."""

    name: str
    created_at: datetime
    updated_at: datetime
    updated_by: str


class SecretKey:
    """The 256-bit key that secrets are encrypted with. `id` names it without giving it away."""

    def __init__(self, raw: bytes) -> None:
        if len(raw) != _KEY:
            raise Conflict(f"the secret key has {len(raw)} bytes; it must have {_KEY}")
        self.id = hashlib.sha256(b"reflux secret key id:" + raw).hexdigest()[:16]
        self.cipher = AESGCM(raw)

    def __repr__(self) -> str:
        return f"SecretKey({self.id})"

    @classmethod
    def from_text(cls, text: str) -> "SecretKey":
        """Read a base64 key, as in REFLUX_SECRET_KEY. Raises Conflict when it is not one."""
        try:
            return cls(base64.b64decode(text, validate=True))
        except binascii.Error:
            raise Conflict("REFLUX_SECRET_KEY is not base64; make one with: openssl rand -base64 32") from None

    @classmethod
    def from_file(cls, path: Path, random_bytes: Callable[[int], bytes] = token_bytes) -> "SecretKey":
        """Read the key file, or make one that only its owner can read. Raises Conflict when it is damaged."""
        if not path.exists():
            fresh = path.with_name(f"{path.name}.{os.getpid()}")
            with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(base64.b64encode(random_bytes(_KEY)) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):  # another process was first: its key counts
                os.link(fresh, path)
            fresh.unlink()
        try:
            return cls(base64.b64decode(path.read_bytes().strip(), validate=True))
        except binascii.Error:
            raise Conflict(f"{path} is damaged: it does not hold a base64 key; restore it from a backup") from None


class Secrets:
    """The table of secrets. Values leave it only through `get_many`."""

    def __init__(
        self, engine: AsyncEngine, clock: Clock, key: SecretKey, random_bytes: Callable[[int], bytes] = token_bytes
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._key = key
        self._random_bytes = random_bytes

    async def put(self, workspace: Workspace, name: str, value: str, updated_by: str) -> None:
        """Store or replace a secret.

        Raises:
            Invalid: the value is shorter than 4 or longer than 65,536 bytes.
        """
        raw = value.encode()
        if not SHORTEST <= len(raw) <= LONGEST:
            sentence = f"must have between {SHORTEST} and {LONGEST} bytes; this one has {len(raw)}"
            raise Invalid("the secret's value has a wrong length", [Fault("$.value", "length", sentence)])
        nonce = self._random_bytes(_NONCE)
        sealed = nonce + self._key.cipher.encrypt(nonce, raw, _bound_to(workspace, name))
        now = self._clock.now()
        fresh = {"ciphertext": sealed, "key_id": self._key.id, "updated_at": now, "updated_by": updated_by}
        query = insert(secrets).values(workspace=workspace, name=name, created_at=now, **fresh)
        async with transaction(self._engine) as connection:
            await connection.execute(
                query.on_conflict_do_update(index_elements=[secrets.c.workspace, secrets.c.name], set_=fresh)
            )

    async def get_many(self, workspace: Workspace, names: Iterable[str]) -> dict[str, str]:
        """The values of those of `names` that exist.

        Raises:
            Conflict: a secret was stored with another key, or its row was tampered with.
        """
        wanted = sorted(set(names))
        if not wanted:
            return {}
        query = select(secrets.c.name, secrets.c.ciphertext, secrets.c.key_id).where(
            secrets.c.workspace == workspace, secrets.c.name.in_(wanted)
        )
        async with transaction(self._engine) as connection:
            rows = (await connection.execute(query)).all()
        return {name: self._open(workspace, name, sealed, key_id) for name, sealed, key_id in rows}

    async def list(self, workspace: Workspace) -> tuple[SecretName, ...]:
        """All secrets of a workspace by name, without their values."""
        columns = (secrets.c.name, secrets.c.created_at, secrets.c.updated_at, secrets.c.updated_by)
        query = select(*columns).where(secrets.c.workspace == workspace).order_by(secrets.c.name)
        async with transaction(self._engine) as connection:
            return tuple(SecretName(*row) for row in await connection.execute(query))

    async def delete(self, workspace: Workspace, name: str) -> None:
        """Forget a secret. Raises NotFound when there is none of that name."""
        query = delete(secrets).where(secrets.c.workspace == workspace, secrets.c.name == name)
        async with transaction(self._engine) as connection:
            if not (await connection.execute(query)).rowcount:
                raise NotFound(f"there is no secret named {name}")

    def _open(self, workspace: Workspace, name: str, sealed: bytes, key_id: str) -> str:
        if key_id != self._key.id:
            raise Conflict(
                f"the secret {name} was stored with another key ({key_id}); restore that key or store the secret again"
            )
        try:
            raw = self._key.cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], _bound_to(workspace, name))
        except InvalidTag:
            raise Conflict(f"the secret {name} is damaged; store it again") from None
        return raw.decode()


def _bound_to(workspace: Workspace, name: str) -> bytes:
    # Lengths first: no other pair of names gives the same bytes.
    return f"{len(workspace)}:{workspace}/{name}".encode()
