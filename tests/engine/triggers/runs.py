"""Runs as triggers see them, in memory: what was started, and how often."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from core.errors import Fault, Invalid, NotFound, Unavailable
from core.ids import RunId, WorkflowId, Workspace
from core.json import JsonValue


@dataclass
class Runs:
    """See `engine.triggers.ports.Runs`. Inputs with `wrong` do not fit; while `away`, nothing starts."""

    runs: dict[RunId, dict[str, Any]] = field(default_factory=dict)
    calls: Counter[RunId] = field(default_factory=Counter)
    away: bool = False
    gone: bool = False
    dies: bool = False

    async def start_run(
        self,
        workspace: Workspace,
        workflow_id: WorkflowId,
        run_id: RunId,
        input: JsonValue,
        context: dict[str, str],
        unit_key: str,
        created_by: str,
    ) -> None:
        await asyncio.sleep(0)
        if self.dies:
            raise asyncio.CancelledError
        if self.away:
            raise Unavailable("the engine starts")
        if self.gone:
            raise NotFound("there is no such workflow")
        if isinstance(input, dict) and "wrong" in input:
            raise Invalid("the input does not fit", [Fault("$.input.wrong", "unknown_field", "is wrong")])
        self.calls[run_id] += 1
        self.runs.setdefault(
            run_id,
            {"workflow_id": workflow_id, "input": input, "context": context, "unit_key": unit_key, "by": created_by},
        )

    @property
    def inputs(self) -> list[JsonValue]:
        """Of all runs, in the order of their start."""
        return [one["input"] for one in self.runs.values()]
