"""Variables that runs share."""

from datetime import datetime
from typing import Any

from pydantic import Field

from api.models.shape import Page, Shape
from core.variable import VariableScope


class Variable(Shape):
    """A variable that outlives a run."""

    name: str = Field(examples=["region"])
    value: Any = Field(description="Any JSON value.", examples=["eu"])
    scope: VariableScope = Field(description="`global`, `workflow` or `session`.")
    workflow: str | None = Field(description="Whose it is, in the scope `workflow`.")
    session: str | None = Field(description="Whose it is, in the scope `session`.")
    expires_at: datetime | None = Field(description="Null when it stays.")
    updated_at: datetime
    updated_by: str = Field(description="The API key's name, or the run.", examples=["ci"])


class VariablePage(Page[Variable]):
    """A page of variables."""
