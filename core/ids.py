"""Typed identifiers. Each is a plain value at run time; the type keeps them from being swapped."""

import uuid
from typing import NewType

RunId = NewType("RunId", uuid.UUID)
"""One execution of a workflow (UUIDv7, so ids sort by creation)."""

WorkflowId = NewType("WorkflowId", uuid.UUID)
"""A workflow over all its versions."""

OwnerId = NewType("OwnerId", uuid.UUID)
"""One life of an engine process. A restarted process is another owner: this is the fencing token."""

StepId = NewType("StepId", str)
"""A step's name, unique inside its workflow."""

Workspace = NewType("Workspace", str)
"""The tenant that workflows, runs, secrets and keys belong to."""

DEFAULT_WORKSPACE = Workspace("default")
