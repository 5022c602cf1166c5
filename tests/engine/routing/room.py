"""Routers on a real database, each as if it were a process of its own."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from core.clock import Clock
from core.ids import DEFAULT_WORKSPACE
from core.manifest import NodeStatus
from core.route import Route
from engine.expression.evaluator import Evaluator
from engine.node.registry import NodeRegistry
from engine.node.sdk import node
from engine.node.version import NodeVersion
from engine.routing.check import check_route
from engine.routing.router import ArmChoice, ArmWanted, Router
from infra.clock import SystemClock
from infra.postgres.breakers import Breakers
from infra.postgres.connection import create_engine
from infra.postgres.routes import Routes

NODE = "payment.charge"
NOON = datetime(2026, 3, 14, 12, 0, tzinfo=UTC)  # a Saturday
LABELS = {"1.0.0": "stripe", "2.0.0": "adyen", "3.0.0": None}


def version(number: str, label: str | None = None, status: NodeStatus = NodeStatus.PRODUCTION) -> NodeVersion:
    @node(NODE, version=number, effect="idempotent")
    async def charge(amount: float = 0.0) -> float:
        return amount

    return replace(charge, label=label).with_status(status)


def versions() -> list[NodeVersion]:
    return [version(number, label) for number, label in LABELS.items()]


def wanted(unit: str = "u", **more: Any) -> ArmWanted:
    return ArmWanted(workspace=DEFAULT_WORKSPACE, node=NODE, unit=unit, now=more.pop("now", NOON), **more)


@dataclass
class Room:
    routers: list[Router]
    routes: Routes
    breakers: Breakers

    @property
    def router(self) -> Router:
        return self.routers[0]

    async def put(self, document: dict[str, Any]) -> int:
        """Put a route in force, and tell all routers."""
        route = check_route(Route.model_validate(document), versions())
        stored = await self.routes.put(DEFAULT_WORKSPACE, NODE, route, "ann")
        await self.reload()
        return stored.revision

    async def reload(self) -> None:
        for router in self.routers:
            await router.reload()

    async def choice(self, unit: str = "u", router: int = 0, **more: Any) -> ArmChoice:
        found = await self.routers[router].choose(wanted(unit, **more))
        assert found is not None
        return found

    def record(self, choice: ArmChoice, error: str | None = None, router: int = 0, **more: Any) -> None:
        self.routers[router].record(DEFAULT_WORKSPACE, NODE, choice, error, **more)

    def states(self, router: int = 0) -> dict[str, str]:
        return {one.version: str(one.state) for one in self.routers[router].state(DEFAULT_WORKSPACE, NODE)}


@asynccontextmanager
async def open_room(dsn: str, processes: int = 1, clock: Clock | None = None) -> AsyncIterator[Room]:
    async with AsyncExitStack() as stack:
        clock = clock or SystemClock()
        engine = create_engine(dsn)
        stack.push_async_callback(engine.dispose)
        evaluator = Evaluator()
        stack.push_async_callback(evaluator.aclose)
        registry = NodeRegistry()
        for one in versions():
            registry.register(one)
        routes = Routes(engine, clock)
        routers = [Router(routes, Breakers(engine), clock, evaluator, registry) for _ in range(processes)]
        for router in routers:
            await router.start()
            stack.push_async_callback(router.aclose)
        yield Room(routers, routes, Breakers(engine))
