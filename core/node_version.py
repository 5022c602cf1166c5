"""A node version that was made through the API, as it is stored."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from core.manifest import NodeStatus


@dataclass(frozen=True, slots=True)
class StoredNodeVersion:
    """See the module.

    Attributes:
        binding: what its author wrote, without the status.
        base: the exact reference (`http.request@1.0.0`) of what it is built on.
        content_hash: of all that never changes.
    """

    workspace: str
    name: str
    version: str
    label: str | None
    status: NodeStatus
    binding: dict[str, Any]
    base: str
    content_hash: str
    created_at: datetime
    created_by: str
    updated_at: datetime
