"""Nodes as the catalogue shows them. The manifest itself is `core.manifest`'s."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from api.models.shape import Page, Shape, left_out
from core.manifest import Effect, NodeManifest, NodeStatus
from engine.node.binding import BindingSpec


class NewNodeVersion(BindingSpec):
    """A node version to be made: another node with parameters filled in."""

    status: Literal["draft", "staging", "production"] = Field(
        "production", description="Where it begins; `production` is used by every step that names no exact version."
    )


class NodeSummary(Shape):
    """A node version as lists show it."""

    name: str = Field(examples=["http.request"])
    version: str = Field(examples=["1.0.0"])
    label: str = Field(default_factory=left_out, description="A name for the version, if it has one.")
    title: str
    category: str
    effect: Effect = Field(description="What running a step twice means.")
    status: NodeStatus


class NodePage(Page[NodeSummary]):
    """Node versions; a list with a single page."""


class Node(NodeManifest):
    """The newest manifest of a node, and all its versions."""

    versions: list[NodeSummary] = Field(description="The newest first.")


class BindingModel(Shape):
    """What a version makes of another node."""

    base: str = Field(description="The exact version below.", examples=["http.request@1.0.0"])
    with_: dict[str, Any] = Field(alias="with")
    output: Any = Field(default_factory=left_out)


class NodeVersionModel(NodeManifest):
    """A node version in full."""

    label: str = Field(default_factory=left_out)
    binding: BindingModel = Field(default_factory=left_out, description="For a version without code of its own.")
    created_at: datetime = Field(default_factory=left_out, description="For a version that was made through the API.")
    created_by: str = Field(default_factory=left_out)
