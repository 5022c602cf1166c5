"""Events that come while no engine lives, and a database that is away when they are looked for."""

from pathlib import Path
from typing import Any

import pytest

from core.errors import Unavailable
from tests.engine.runner_room import crash, open_room
from tests.engine.test_runner_waits import PAID, flow, tell, waiting

pytestmark = pytest.mark.chaos

MANY = """
INSERT INTO events (id, workspace, name, payload, received_at, created_by, dispatched_at)
SELECT uuidv7(), 'default', 'paid', '{"order": 0}', now(), '', now() FROM generate_series(1, 1500)
"""


@pytest.fixture(autouse=True)
def _long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """The feed of the next engine does not reach back to what these tests send."""
    for name in ("FAR_SECONDS", "_NEAR_SECONDS"):
        monkeypatch.setattr(f"engine.events.feed.{name}", 0.0)


async def test_an_event_behind_many_others_is_found(database: str, tmp_path: Path) -> None:
    async with open_room(database, tmp_path, whole=True) as first:
        run_id = await waiting(first, flow(PAID), {"order": 1})
        await crash(first)
        await first.rows(MANY)
        await tell(first, "paid", {"order": 1})
        async with open_room(database, tmp_path, exclusive=True, whole=True) as second:
            assert (await second.ended(run_id))[-1].payload == {"v": {"order": 1}}


async def test_the_events_of_the_past_are_asked_for_until_they_are_told(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_room(database, tmp_path, whole=True) as first:
        run_id = await waiting(first, flow(PAID), {"order": 1})
        await crash(first)
        await tell(first, "paid", {"order": 1})
        log = first.parts.events
        assert log is not None
        since, asked = type(log).since, []

        async def away_at_first(self: Any, *given: Any) -> Any:
            asked.append(given)
            if len(asked) < 3:
                raise Unavailable("not now")
            return await since(self, *given)

        monkeypatch.setattr(type(log), "since", away_at_first)
        async with open_room(database, tmp_path, exclusive=True, whole=True) as second:
            assert (await second.ended(run_id))[-1].payload == {"v": {"order": 1}}
        assert len(asked) == 3
