"""Cached results."""

from datetime import datetime

from pydantic import Field

from api.models.shape import Shape


class CacheShare(Shape):
    """How much of the cache is a node's."""

    node: str = Field(examples=["http.request"])
    entries: int
    bytes: int = Field(description="Length of the results as JSON.")
    oldest: datetime = Field(description="When the oldest result was stored.")
    newest: datetime


class CacheView(Shape):
    """What is in the cache."""

    entries: int
    bytes: int
    hits: int = Field(description="Calls saved in this process since it started.")
    misses: int = Field(description="Calls made in this process since it started, whose results were to be cached.")
    nodes: list[CacheShare] = Field(description="The largest first.")


class CacheCleared(Shape):
    """What was removed."""

    removed: int = Field(description="Results.")
