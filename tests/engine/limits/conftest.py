from collections.abc import AsyncIterator

import pytest

from tests.engine.limits.room import Room, open_room


@pytest.fixture
async def room(database: str) -> AsyncIterator[Room]:
    async with open_room(database) as opened:
        yield opened
