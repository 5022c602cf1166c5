"""Payloads too large for a row, by the hash of their content: the same bytes are stored once."""

import asyncio
import hashlib
import zlib
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import ParamSpec, TypeVar

import obstore
from obstore.store import LocalStore, ObjectStore, from_url

from core.errors import Conflict, NotFound, Unavailable

P = ParamSpec("P")
R = TypeVar("R")

_PLAIN, _ZLIB = b"\x00", b"\x01"
_WORTH = 0.9  # a smaller saving is not worth the time to decompress
_REF = "sha256:"
_IN_THREAD = 256 * 1024


class Objects:
    """Content-addressed bytes in a local directory or a bucket.

    A reference is `sha256:<hex>` of the content. Writing is atomic: a reader sees all of an object or none.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    @classmethod
    def open(cls, location: Path | str) -> "Objects":
        """A directory (made when missing) or a URL such as `s3://bucket/prefix`."""
        if isinstance(location, Path):
            location.mkdir(mode=0o700, parents=True, exist_ok=True)
            return cls(LocalStore(location, automatic_cleanup=False))
        return cls(from_url(location))

    async def put(self, content: bytes) -> str:
        """Store bytes and return their reference. Raises Unavailable when the store does not take them."""
        digest, body = await _off_loop(len(content), _pack, content)
        try:
            await obstore.put_async(self._store, _path(digest), body)
        except (obstore.exceptions.BaseError, OSError) as error:
            raise Unavailable("the object store does not take the object; try again in a moment") from error
        return f"{_REF}{digest}"

    async def get(self, ref: str) -> bytes:
        """The bytes of a reference.

        Raises:
            NotFound: deleted, or never stored.
            Conflict: the stored bytes are not the ones that were put there.
            Unavailable: the store does not answer.
        """
        digest = ref.removeprefix(_REF)
        if not ref.startswith(_REF) or len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            raise NotFound("the reference does not name an object")
        try:
            result = await obstore.get_async(self._store, _path(digest))
            body = bytes(await result.bytes_async())
        except FileNotFoundError:
            raise NotFound(f"the object {ref} is gone; it may be older than the retention time") from None
        except (obstore.exceptions.BaseError, OSError) as error:
            raise Unavailable("the object store does not answer; try again in a moment") from error
        return await _off_loop(len(body), _unpack, body, digest)

    async def delete_older_than(self, moment: datetime) -> int:
        """Delete objects last written before `moment`; return how many.

        An object that was put again later counts from then.
        """
        deleted = 0
        try:
            async for batch in obstore.list(self._store, prefix="sha256"):
                old = [meta["path"] for meta in batch if meta["last_modified"] < moment]
                if old:
                    await obstore.delete_async(self._store, old)
                    deleted += len(old)
        except (obstore.exceptions.BaseError, OSError) as error:
            raise Unavailable("the object store does not answer; try again in a moment") from error
        return deleted


def _path(digest: str) -> str:
    return f"sha256/{digest[:2]}/{digest[2:]}"


def _pack(content: bytes) -> tuple[str, bytes]:
    digest = hashlib.sha256(content).hexdigest()
    packed = zlib.compress(content, 1)
    return digest, (_ZLIB + packed if len(packed) < len(content) * _WORTH else _PLAIN + content)


def _unpack(body: bytes, digest: str) -> bytes:
    try:
        content = zlib.decompress(body[1:]) if body[:1] == _ZLIB else body[1:]
    except zlib.error:
        content = b""
    if hashlib.sha256(content).hexdigest() != digest:
        raise Conflict(f"the object {_REF}{digest} is damaged")
    return content


async def _off_loop(size: int, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    # Hashing and compressing large bytes would hold the event loop; for small ones a thread costs more than the work.
    if size < _IN_THREAD:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)
