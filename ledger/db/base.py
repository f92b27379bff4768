"""How the ledger's tables are mapped: the common base, names of constraints, and types of columns."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, BigInteger, DateTime, Identity, Integer, MetaData, Text, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

NAMES = {
    "pk": "%(table_name)s_pkey",
    "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
    "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    "ck": "%(table_name)s_%(constraint_name)s_check",
}
Json = dict[str, Any]


class Base(DeclarativeBase):
    """Common types: text, jsonb, and times with a zone."""

    metadata = MetaData(naming_convention=NAMES)
    type_annotation_map = {  # noqa: RUF012 - declared so by SQLAlchemy
        str: Text(),
        datetime: DateTime(timezone=True),
        Json: JSONB(none_as_null=True),
        list[Any]: JSONB(none_as_null=True),
        list[str]: ARRAY(Text()),
        list[int]: ARRAY(Integer()),
    }


def sequence() -> Mapped[int]:
    """Return a column that numbers rows as they are added: the key of pages."""
    return mapped_column(BigInteger, Identity(always=True), unique=True)


def now() -> Mapped[datetime]:
    """Return a column that has the time at which a row is added."""
    return mapped_column(server_default=func.now())
