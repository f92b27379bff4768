"""Finding rows: by id, and page by page."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from sqlalchemy import ARRAY, BigInteger, ColumnElement, Select, any_, cast, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from ledger.db import cursors
from ledger.db.base import Base
from ledger.db.tables import Alias
from ledger.errors import NotFound
from ledger.records import Page

Row = TypeVar("Row", bound=Base)
T = TypeVar("T")


def find(session: Session, table: type[Row], ident: str, kind: str, *, lock: bool = False) -> Row:
    """Return the row with this id, as it is now, locked if wanted.

    Raises:
        NotFound: there is none, or the text cannot be an id at all.
    """
    row = None
    if can_be_id(ident):
        row = session.get(table, ident, with_for_update=lock or None, populate_existing=True)
    if row is None:
        raise NotFound(kind, ident)
    return row


def can_be_id(text: str) -> bool:
    """Return whether a text can be an id or a name, so that PostgreSQL can be asked for it."""
    return text.isascii() and text.isprintable()


def one_of(column: InstrumentedAttribute[T], values: Iterable[T]) -> ColumnElement[bool]:
    """Say that a column holds one of some values: one parameter, however many there are."""
    return column == any_(cast(list(values), ARRAY(column.type)))


def page(
    session: Session,
    query: Select[*tuple[Any, ...]],
    key: InstrumentedAttribute[int],
    listing: str,
    limit: int,
    cursor: str | None,
    record: Callable[[Any], T],
    *,
    newest_first: bool = True,
) -> Page[T]:
    """Return a page of a query, in the order of a column that never changes.

    Args:
        session: the transaction to read in.
        query: what to list, unordered.
        key: the column to page by.
        listing: the list's name, which its cursors carry.
        limit: how many to return, 1 to 500.
        cursor: from the page before, or None.
        record: makes a record of a row.
        newest_first: whether high keys come first.

    Raises:
        InvalidCursor: the cursor is not one of this list.
    """
    limit = cursors.clamp(limit)
    bits = 64 if isinstance(key.type, BigInteger) else 32
    if (after := cursors.decode(listing, cursor, bits)) is not None:
        query = query.where(key < after if newest_first else key > after)
    query = query.add_columns(key.label("page_key"))
    rows = session.execute(query.order_by(key.desc() if newest_first else key).limit(limit + 1)).all()
    following = cursors.encode(listing, rows[limit - 1].page_key) if len(rows) > limit else None
    return Page(tuple(map(record, rows[:limit])), following)


def find_alias(session: Session, model_id: str, name: str) -> int | None:
    """Return the number that an alias points at now, or None if there is no such alias."""
    if not can_be_id(name):
        return None
    return session.scalar(select(Alias.number).where(Alias.model_id == model_id, Alias.name == name))
