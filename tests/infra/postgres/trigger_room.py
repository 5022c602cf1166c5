"""The trigger service over real tables, with runs in memory."""

from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy.ext.asyncio import AsyncEngine

from core.clock import Clock
from core.event import Event
from core.firing import Firing, StoredTrigger
from core.ids import WorkflowId, Workspace
from core.spec import WorkflowSpec
from core.trigger import Trigger
from engine.expression.evaluator import Evaluator
from engine.triggers.service import Triggers
from infra.postgres.events import Events
from infra.postgres.firings import Firings
from infra.postgres.triggers import Triggers as TriggerTable
from infra.postgres.workflows import Workflows
from tests.engine.triggers.runs import Runs

HERE = Workspace("default")
SECRET = "a-shared-secret"
adapter: TypeAdapter[list[Trigger]] = TypeAdapter(list[Trigger])


class Secrets:
    async def get_many(self, workspace: Workspace, names: Any) -> dict[str, str]:
        return {"HOOK": SECRET} if "HOOK" in names else {}


@dataclass
class Room:
    """One process's service; several rooms on one database are several processes."""

    engine: AsyncEngine
    clock: Clock
    evaluator: Evaluator
    runs: Runs = field(default_factory=Runs)
    woken: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.table = TriggerTable(self.engine, self.clock)
        self.firings = Firings(self.engine, self.clock)
        self.events = Events(self.engine)
        self.service = Triggers(
            self.table, self.firings, self.events, self.runs, Secrets(), self.evaluator, self.clock, self._on_event
        )

    async def _on_event(self, event: Event) -> int:
        self.woken.append(event)
        return 1

    async def workflow(self, name: str, *triggers: dict[str, Any]) -> WorkflowId:
        """A workflow with these triggers in its spec."""
        document = {"name": name, "steps": [{"id": "a", "node": "transform.map"}], "triggers": list(triggers)}
        spec = WorkflowSpec.model_validate(document)
        await self.service.check(HERE, name, spec.triggers)
        stored = await Workflows(self.engine, self.clock).save(HERE, spec, "tests")
        await self.service.sync(HERE, stored.id, spec.triggers)
        return stored.id

    async def sync(self, workflow_id: WorkflowId, *triggers: dict[str, Any]) -> None:
        await self.service.sync(HERE, workflow_id, adapter.validate_python(list(triggers)))

    async def named(self, name: str) -> StoredTrigger:
        page = await self.table.list(HERE, limit=100)
        return next(one for one in page.items if one.name == name)

    async def history(self, name: str) -> list[Firing]:
        """Oldest first."""
        page = await self.firings.history((await self.named(name)).id, limit=100)
        return list(reversed(page.items))
