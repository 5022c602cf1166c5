"""A parent and its child are driven by two engines, and the parent's dies before it has cancelled the child."""

from pathlib import Path

import pytest

from core.run import RunStatus
from tests.engine.runner_room import open_room
from tests.engine.test_runner import step

pytestmark = pytest.mark.chaos


async def test_a_child_whose_parent_ended_in_an_engine_that_died_is_cancelled(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.kinship._LOOK_SECONDS", 0.2)
    async with open_room(database, tmp_path, whole=True) as room:
        await room.save("child", {"steps": [step("gate", "test.gate")]})
        parent = await room.submit({"steps": [step("sub", "flow.subworkflow", {"workflow": "child"})]})
        await room.until(lambda: bool(room.log.of("gate")))
        (child,) = [one for one in room.engine._actors.values() if one is not parent]
        # As if the parent were another engine's: it is out of these hands, and over.
        parent_id = parent.state.record.id
        room.engine._drives[parent_id].cancel()
        await room.until(lambda: room.engine.actor(parent_id) is None)
        await room.rows("UPDATE runs SET finished_at = now(), status = 'cancelled' WHERE id = $1", parent_id)
        await room.until(lambda: child.state.status is RunStatus.CANCELLED)
