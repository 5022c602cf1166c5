"""A model server, and the adapters that may reach it."""

from collections.abc import AsyncIterator

import pytest

from engine.nodes.egress import EgressPolicy
from infra.clock import SystemClock
from infra.llm.models import Models
from tests.infra.llm.model_server import ModelServer, model_server


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with model_server() as server:
        yield server


@pytest.fixture
async def models() -> AsyncIterator[Models]:
    models = Models(EgressPolicy(["127.0.0.0/8"]), SystemClock())
    yield models
    await models.aclose()
