"""Workers, and what waits for them."""

import uuid
from datetime import datetime

from pydantic import Field

from api.models.shape import Shape


class Worker(Shape):
    """A worker process that lives."""

    id: uuid.UUID
    groups: list[str] = Field(description="Node groups that it serves.", examples=[["http"]])
    hostname: str
    pid: int
    concurrency: int = Field(description="Attempts that it performs at once, at most.")
    running: int = Field(description="Attempts that it performs now.")
    started_at: datetime


class WorkerGroup(Shape):
    """What waits for the workers of a node group."""

    group: str = Field(examples=["http"])
    queued: int = Field(description="Attempts that no worker has begun.")
    running: int
    workers: int = Field(description="Live workers that serve the group.")
    oldest_seconds: float = Field(description="Age of the attempt that is queued longest; 0 when none is.")


class WorkerList(Shape):
    """All workers and node groups; both are empty while steps run in the server itself."""

    workers: list[Worker]
    groups: list[WorkerGroup]
