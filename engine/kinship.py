"""Parents and children that are driven by different engines, or were: each hears of the other's end."""

import asyncio
from collections.abc import Mapping

import structlog

from core.errors import Unavailable
from core.ids import RunId
from core.run import Parent
from engine.actor import RunActor
from engine.history import state_of
from engine.ports import Journal
from engine.state import RunState

_log = structlog.get_logger(__name__)

_LOOK_SECONDS = 2.0


class Kinship:
    """See the module. Where both are here, a child's end is told at once.

    Args:
        actors: the runs that are driven here.
    """

    def __init__(self, journal: Journal, actors: Mapping[RunId, RunActor]) -> None:
        self._journal = journal
        self._actors = actors
        self._missing: set[RunId] = set()

    async def watch(self) -> None:
        """Hear of children that ended elsewhere, or while nobody listened; ends by cancellation."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            outstanding: dict[RunId, Parent] = {}
            for actor in list(self._actors.values()):
                outstanding.update(
                    (child, parent) for child, parent in actor.outstanding() if child not in self._actors
                )
            try:
                await self._tell_of(outstanding)
                await self._find_orphans()
            except Unavailable as error:
                _log.warning("the ends of child runs cannot be read now", detail=error.detail)

    def tell_parent(self, parent: Parent | None, child: RunState) -> None:
        """A run has ended: whoever has started it may be here."""
        actor = self._actors.get(parent.run_id) if parent is not None else None
        if actor is not None and parent is not None:
            actor.child_ended(parent, child)

    async def is_orphan(self, state: RunState) -> bool:
        """Whether whoever waits for a run has ended, without having come to cancelling it. Raises Unavailable."""
        parent = state.options.parent
        if parent is None or state.revived:
            return False
        return (await self._journal.ended([parent.run_id])).get(parent.run_id, False)

    async def _find_orphans(self) -> None:
        """Cancel runs whose parent has ended in another engine that died before it came to cancelling them."""
        parents = {
            run_id: parent.run_id
            for run_id, actor in self._actors.items()
            if (parent := actor.state.options.parent) is not None
            and parent.run_id not in self._actors
            and not actor.state.revived
        }
        over = await self._journal.ended(list(set(parents.values()))) if parents else {}
        for run_id, parent_id in parents.items():
            actor = self._actors.get(run_id)
            if actor is not None and over.get(parent_id, False):
                actor.orphaned()

    async def _tell_of(self, children: dict[RunId, Parent]) -> None:
        found = await self._journal.ended(list(children)) if children else {}
        nowhere = {run_id for run_id in children if run_id not in found and run_id not in self._actors}
        for run_id in nowhere & self._missing:  # twice in a row: it is not on its way to the journal
            actor = self._actors.get(children[run_id].run_id)
            if actor is not None:
                actor.child_missing(children[run_id], run_id)
        self._missing = nowhere - self._missing
        for run_id, over in found.items():
            stored = await self._journal.load(run_id) if over else None
            if stored is not None:
                self.tell_parent(children[run_id], await asyncio.to_thread(state_of, stored))
