"""What all tables are made of."""

from typing import Any

from sqlalchemy import Column, DateTime, MetaData, Text
from sqlalchemy.dialects.postgresql import JSON
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.types import UserDefinedType


class Xid8(UserDefinedType[int]):
    """A 64-bit transaction id, PostgreSQL's `xid8`."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        """The type's name in DDL."""
        return "xid8"


ischema_names["xid8"] = Xid8  # lets reflection, and so the comparison with the migrations, know the type

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
    }
)


def time_column(name: str, *, nullable: bool = False) -> Column[Any]:
    """A time, aware, in UTC."""
    return Column(name, DateTime(timezone=True), nullable=nullable)


def text_column(name: str, *, nullable: bool = False) -> Column[Any]:
    """A text without bound."""
    return Column(name, Text, nullable=nullable)


def json_column(name: str, *, nullable: bool = False) -> Column[Any]:
    """A JSON text, kept as it was written."""
    return Column(name, JSON(none_as_null=True), nullable=nullable)
