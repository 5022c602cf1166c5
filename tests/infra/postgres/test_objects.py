import asyncio
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from core.errors import Conflict, NotFound
from infra.objects import Objects


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


async def test_round_trip_and_compression(tmp_path: Path) -> None:
    store = Objects.open(tmp_path / "objects")
    for content in (b"", b"x", b"a" * 1_000_000, os.urandom(400_000)):
        ref = await store.put(content)
        assert await store.put(content) == ref
        assert await store.get(ref) == content
    sizes = sorted(path.stat().st_size for path in files(tmp_path))
    assert len(sizes) == 4
    assert sizes[2] < 10_000
    assert sizes[3] == 400_001


async def test_same_bytes_at_once(tmp_path: Path) -> None:
    store = Objects.open(tmp_path)
    refs = await asyncio.gather(*(store.put(b"same" * 10_000) for _ in range(20)))
    assert len(set(refs)) == 1
    assert len(files(tmp_path)) == 1


@pytest.mark.parametrize("ref", ["", "sha256:../../etc/passwd", "md5:0", "sha256:" + "0" * 64])
async def test_unknown_reference(tmp_path: Path, ref: str) -> None:
    with pytest.raises(NotFound):
        await Objects.open(tmp_path).get(ref)


async def test_damage_is_noticed(tmp_path: Path) -> None:
    store = Objects.open(tmp_path)
    ref = await store.put(b"content" * 100)
    (path,) = files(tmp_path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(Conflict, match="damaged"):
        await store.get(ref)


async def test_old_objects_are_deleted(tmp_path: Path) -> None:
    store = Objects.open(tmp_path)
    old, new = await store.put(b"old"), await store.put(b"new")
    now = datetime.now(UTC)
    aged = next(path for path in files(tmp_path) if path.read_bytes()[1:] == b"old")
    os.utime(aged, (now.timestamp() - 7200,) * 2)
    assert await store.delete_older_than(now - timedelta(hours=1)) == 1
    assert await store.get(new) == b"new"
    with pytest.raises(NotFound):
        await store.get(old)
