"""What crosses the border between the engine and the store that keeps its journal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from core.errors import RefluxError
from core.ids import RunId
from core.json import JsonValue
from core.run import RunEvent, RunRecord, RunStatus


class Fenced(RefluxError):
    """Another engine has taken over what this one owned; nothing was written."""

    status = 503
    title = "Taken over"


@dataclass(frozen=True, slots=True)
class RunWrite:
    """What a run adds to the journal, all or nothing.

    Attributes:
        created: set on the first write of a run.
        status: where the run stands after the events; None when that has not changed.
        error: why it failed, when it did.
    """

    run_id: RunId
    events: Sequence[RunEvent]
    status: RunStatus | None = None
    created: RunRecord | None = None
    finished_at: datetime | None = None
    error: Mapping[str, JsonValue] | None = None


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run as the journal has it: the record, the spec document of its version, and all events in order."""

    record: RunRecord
    spec: JsonValue
    events: Sequence[RunEvent]
    recoveries: int
