"""API keys: made, verified, revoked. Only their SHA-256 is stored: 256 random bits need no slow hash."""

import base64
import hashlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from secrets import token_bytes

from sqlalchemy import Row, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from core.account import ApiKey, Principal, Role
from core.clock import Clock
from core.errors import Conflict, NotFound
from core.ids import DEFAULT_WORKSPACE, Workspace
from infra.postgres.connection import transaction
from infra.postgres.tables import api_keys

PREFIX = "rfx_"
_SHOWN = len(PREFIX) + 6
_CACHE_SECONDS = 5.0
_CACHE_SIZE = 10_000
_LAST_USED_STEP = timedelta(minutes=1)
_SHORTEST_CHOSEN_KEY = 16
_LOCK = 0x5EF1_0A91


@dataclass(frozen=True, slots=True)
class _Cached:
    principal: Principal | None
    until: float


_FIRST_KEY_LOCK = 0x4B455931


class ApiKeys:
    """The table of API keys, with the verified ones remembered for a few seconds.

    A revoked key is refused at once in this process, and within `cache_seconds` in others.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        clock: Clock,
        *,
        cache_seconds: float = _CACHE_SECONDS,
        random_bytes: Callable[[int], bytes] = token_bytes,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._cache_seconds = cache_seconds
        self._random_bytes = random_bytes
        self._cache: dict[str, _Cached] = {}
        self._revocations = 0

    async def create(self, workspace: Workspace, name: str, role: Role, created_by: str) -> tuple[ApiKey, str]:
        """Make a key. The text is returned here and never again."""
        plain = PREFIX + base64.urlsafe_b64encode(self._random_bytes(32)).rstrip(b"=").decode()
        return await self._insert(workspace, name, role, created_by, plain), plain

    async def verify(self, plain: str) -> Principal | None:
        """Whom a key stands for; None when it is unknown or revoked."""
        digest = _digest(plain)
        now = self._clock.monotonic()
        cached = self._cache.get(digest)
        if cached is not None and cached.until > now:
            return cached.principal
        revocations = self._revocations
        principal = await self._look_up(digest)
        # A key that was revoked while we looked must not come back into the cache.
        if revocations == self._revocations:
            self._remember(digest, principal, now)
        return principal

    async def list(self, workspace: Workspace) -> tuple[ApiKey, ...]:
        """All keys of a workspace, newest first, the revoked ones included."""
        query = select(api_keys).where(api_keys.c.workspace == workspace).order_by(api_keys.c.id.desc())
        async with transaction(self._engine) as connection:
            return tuple(_key(row) for row in await connection.execute(query))

    async def revoke(self, workspace: Workspace, key_id: uuid.UUID) -> None:
        """Refuse a key from now on. Revoking twice is the same as once.

        Raises:
            NotFound: no such key in this workspace.
            Conflict: it is the workspace's last admin key; nobody could make another.
        """
        async with transaction(self._engine) as connection:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            mine = (api_keys.c.workspace == workspace) & (api_keys.c.id == key_id)
            found = (await connection.execute(select(api_keys).where(mine))).one_or_none()
            if found is None:
                raise NotFound(f"there is no API key {key_id} in workspace {workspace}")
            if found.revoked_at is None and found.role == Role.ADMIN:
                others = select(func.count()).where(
                    api_keys.c.workspace == workspace,
                    api_keys.c.id != key_id,
                    api_keys.c.role == Role.ADMIN,
                    api_keys.c.revoked_at.is_(None),
                )
                if not await connection.scalar(others):
                    raise Conflict(f"{found.name} is the last admin key; make another admin key before revoking it")
            await connection.execute(
                update(api_keys).where(mine, api_keys.c.revoked_at.is_(None)).values(revoked_at=self._clock.now())
            )
        self._revocations += 1
        self._cache.clear()

    async def ensure_first(self, plain: str | None) -> str | None:
        """See to it that somebody can get in. Returns the text of a key that was made up here, to be shown once.

        With `plain` (chosen by the operator) that key is an admin key afterwards. Without it, a key is made only
        when there is no live admin key at all.

        Raises:
            Conflict: `plain` is too short, was revoked, or belongs to a role below admin.
        """
        # One server at a time: several may start at once on one database.
        async with transaction(self._engine) as guard:
            await guard.execute(select(func.pg_advisory_xact_lock(_FIRST_KEY_LOCK)))
            return await self._ensure_first(plain)

    async def _ensure_first(self, plain: str | None) -> str | None:
        if plain is not None:
            await self._ensure_chosen(plain)
            return None
        async with transaction(self._engine) as connection:
            live = select(api_keys.c.id).where(api_keys.c.role == Role.ADMIN, api_keys.c.revoked_at.is_(None))
            if (await connection.execute(live.limit(1))).first() is not None:
                return None
        _, made = await self.create(DEFAULT_WORKSPACE, "first", Role.ADMIN, "system")
        return made

    async def _ensure_chosen(self, plain: str) -> None:
        if len(plain) < _SHORTEST_CHOSEN_KEY:
            raise Conflict(f"REFLUX_API_KEY is too short; use at least {_SHORTEST_CHOSEN_KEY} characters")
        query = select(api_keys).where(api_keys.c.key_hash == _digest(plain))
        async with transaction(self._engine) as connection:
            known = (await connection.execute(query)).one_or_none()
        if known is None:
            await self._insert(DEFAULT_WORKSPACE, "first", Role.ADMIN, "system", plain)
        elif known.revoked_at is not None or known.role != Role.ADMIN:
            raise Conflict("REFLUX_API_KEY names a key that was revoked or is not an admin key; choose another")

    async def _insert(self, workspace: Workspace, name: str, role: Role, created_by: str, plain: str) -> ApiKey:
        # A key that a person chose may be a word with meaning: show less of it.
        shown = plain[:_SHOWN] if plain.startswith(PREFIX) else plain[:3]
        key = ApiKey(
            id=self._clock.new_id(),
            workspace=workspace,
            name=name,
            role=role,
            prefix=shown,
            created_at=self._clock.now(),
            created_by=created_by,
        )
        digest = _digest(plain)
        async with transaction(self._engine) as connection:
            await connection.execute(
                api_keys.insert().values(
                    id=key.id,
                    workspace=workspace,
                    name=name,
                    role=role.value,
                    key_hash=digest,
                    prefix=key.prefix,
                    created_at=key.created_at,
                    created_by=created_by,
                )
            )
        self._cache.pop(digest, None)
        return key

    async def _look_up(self, digest: str) -> Principal | None:
        live = select(api_keys).where(api_keys.c.key_hash == digest, api_keys.c.revoked_at.is_(None))
        async with transaction(self._engine) as connection:
            row = (await connection.execute(live)).one_or_none()
            if row is None:
                return None
            now = self._clock.now()
            if row.last_used_at is None or now - row.last_used_at >= _LAST_USED_STEP:
                await connection.execute(update(api_keys).where(api_keys.c.id == row.id).values(last_used_at=now))
        return Principal(row.id, Workspace(row.workspace), row.name, Role(row.role))

    def _remember(self, digest: str, principal: Principal | None, now: float) -> None:
        if len(self._cache) >= _CACHE_SIZE:
            self._cache.clear()
        self._cache[digest] = _Cached(principal, now + self._cache_seconds)


def _digest(plain: str) -> str:
    return hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()


def _key(row: Row[tuple[datetime, ...]]) -> ApiKey:
    return ApiKey(
        id=row.id,
        workspace=Workspace(row.workspace),
        name=row.name,
        role=Role(row.role),
        prefix=row.prefix,
        created_at=row.created_at,
        created_by=row.created_by,
        last_used_at=row.last_used_at,
        revoked_at=row.revoked_at,
    )
