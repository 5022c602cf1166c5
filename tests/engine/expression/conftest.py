from collections.abc import AsyncIterator

import pytest_asyncio

from engine.expression.evaluator import Evaluator


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def evaluator() -> AsyncIterator[Evaluator]:
    evaluator = Evaluator()
    await evaluator.start()
    yield evaluator
    await evaluator.aclose()
