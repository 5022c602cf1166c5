"""Nodes as the catalogue shows them. The manifest itself is `core.manifest`'s."""

from pydantic import Field

from api.models.shape import Page, Shape
from core.manifest import Effect, NodeManifest, NodeStatus


class NodeSummary(Shape):
    """A node version as lists show it."""

    name: str = Field(examples=["http.request"])
    version: str = Field(examples=["1.0.0"])
    title: str
    category: str
    effect: Effect = Field(description="What running a step twice means.")
    status: NodeStatus


class NodePage(Page[NodeSummary]):
    """Node versions; a list with a single page."""


class Node(NodeManifest):
    """The newest manifest of a node, and all its versions."""

    versions: list[NodeSummary] = Field(description="The newest first.")
