"""What happens to one run, on its way to the journal: each event is folded at once and handed over in order."""

from typing import Any

from core.clock import Clock
from core.ids import StepId
from core.journal import RunWrite
from core.json import JsonValue
from core.run import NO_ITEM, EventType, RunEvent, RunStatus
from engine.commit import Commit, GroupCommit
from engine.fold import apply
from engine.state import RunState


class RunLog:
    """The only one that changes the state of a run.

    Attributes:
        first: the transaction of the first events written here; None before them.
        last: that of the last ones. Whatever was handed over before them is in it or in an earlier one.
    """

    def __init__(self, clock: Clock, commit: GroupCommit, state: RunState) -> None:
        self._clock = clock
        self._commit = commit
        self._pending: list[RunEvent] = []
        self._fresh = state.seq == 0
        self._written_status: RunStatus | None = None
        self.state = state
        self.first: Commit | None = None
        self.last: Commit | None = None

    @property
    def fresh(self) -> bool:
        """Whether nothing of the run has been handed over yet."""
        return self._fresh

    def emit(
        self,
        kind: EventType,
        step_id: str | None = None,
        item: int = NO_ITEM,
        attempt: int = 0,
        data: dict[str, Any] | None = None,
        payload: JsonValue = None,
        encoded: bytes | None = None,
    ) -> None:
        """Something has happened. It is in the state now, and durable once the commit of the next `flush` is."""
        event = RunEvent(
            run_id=self.state.record.id,
            seq=self.state.seq + 1,
            type=kind,
            at=self._clock.now(),
            step_id=None if step_id is None else StepId(step_id),
            item=item,
            attempt=attempt,
            data=data or {},
            payload=payload,
            encoded=encoded,
        )
        apply(self.state, event)
        self._pending.append(event)

    def restate(self) -> None:
        """Say again where the run stands: it was taken over, and nothing came of it."""
        write = RunWrite(self.state.record.id, (), self.state.status, None, self.state.finished_at, self.state.error)
        self.last = self._commit.submit(write)

    def flush(self) -> Commit | None:
        """Hand over what was emitted. Returns the commit that all of it is in; None when there never was anything.

        Raises:
            Fenced: another engine has taken over.
        """
        if self._pending:
            state = self.state
            write = RunWrite(
                run_id=state.record.id,
                events=tuple(self._pending),
                status=state.status if state.status is not self._written_status else None,
                created=state.record if self._fresh else None,
                finished_at=state.finished_at,
                error=state.error,
            )
            self.last = self._commit.submit(write)
            if self.first is None:
                self.first = self.last
            self._pending.clear()
            self._written_status = state.status
            self._fresh = False
        return self.last
