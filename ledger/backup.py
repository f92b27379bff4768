"""A ledger's dump: all rows and blobs in one tar file, to be read into an empty ledger and verified there.

The file holds `dump.json` (what it is, and what it holds), `tables/NAME` (rows in the text form of
PostgreSQL's COPY) and the blobs, each at its place in the store.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any

import psycopg
from psycopg import Copy, sql
from sqlalchemy import Table, select, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session

from ledger.blobs import gc
from ledger.blobs.store import Blobs
from ledger.db.base import Base
from ledger.db.engine import NO_LIMIT, Database
from ledger.db.migrate import current_revision, head_revision
from ledger.db.tables import Blob, Head
from ledger.errors import BlobCorrupt, LedgerError, LedgerUnavailable
from ledger.integrity import verify
from ledger.records import LedgerCheck

FORMAT = "errata-ledger/1"
HEADER = "dump.json"
IN_MEMORY = 64 * 2**20
CHUNK = 2**20
UNREADABLE = (tarfile.TarError, ValueError, KeyError, AttributeError, TypeError, OSError)
TABLES = [table for table in Base.metadata.sorted_tables if table.name != "legal_transitions"]


class LedgerNotEmpty(LedgerError):
    """A dump is read into an empty ledger only."""

    code = "ledger-not-empty"

    def __init__(self, table: str) -> None:
        super().__init__(
            f"The ledger has rows already (in {table}), so nothing was read into it.",
            remedy="Name a database that was just created; `errata import` makes its tables.",
        )


class DumpRefused(LedgerError):
    """A file that is no whole, valid dump of this release."""

    code = "dump-refused"

    def __init__(self, file: Path, cause: str) -> None:
        super().__init__(
            f"{file} cannot be read into a ledger: {cause}. Nothing was changed.",
            remedy="Make a new dump with `errata ledger export`, by the release that is to read it.",
        )


def write(database: Database, store: Blobs, file: Path) -> dict[str, Any]:
    """Write all that one moment's ledger holds to a file; return its header.

    Raises:
        BlobMissing, BlobCorrupt: a blob that is named cannot be dumped.
        LedgerUnavailable, BlobStoreUnavailable: a server does not answer.
    """
    with database.snapshot() as session, tarfile.open(file, "w") as tar:
        revision = current_revision(session.connection())
        header: dict[str, Any] = {"format": FORMAT, "revision": revision, "tables": {}}
        for table in TABLES:
            with SpooledTemporaryFile(IN_MEMORY) as rows:
                header["tables"][table.name] = _copy_out(session, table, rows)
                _add(tar, f"tables/{table.name}", rows)
        header["heads"] = _heads(session)
        header["blobs"] = {blob.digest: blob.place for blob in session.scalars(select(Blob))}
        for digest, place in header["blobs"].items():
            _add(tar, place, io.BytesIO(store.get(digest)))
        _add(tar, HEADER, io.BytesIO(json.dumps(header, indent=1).encode()))
    return header


def read(database: Database, store: Blobs, file: Path) -> LedgerCheck:
    """Read a dump into an empty, migrated ledger, and verify all of it before it is committed.

    Raises:
        LedgerNotEmpty: the ledger has rows.
        DumpRefused: the file is no dump, is damaged or of another schema, or what it holds does not verify.
        LedgerUnavailable, BlobStoreUnavailable: a server does not answer.
    """
    try:
        with tarfile.open(file) as tar:
            header = json.loads(_open(tar, HEADER).read())
            if header.get("format") != FORMAT or header.get("revision") != head_revision():
                found = f"it is {header.get('format')} of revision {header.get('revision')}"
                raise DumpRefused(file, f"{found}, not {FORMAT} of revision {head_revision()}")
            with database.transaction() as session:
                session.execute(NO_LIMIT)  # nobody else has anything to do here yet
                gc.lock_gc(session)
                _require_empty(session)
                for digest, place in header["blobs"].items():
                    content = _open(tar, place).read()
                    if (stored := store.put(content)) != digest:
                        raise BlobCorrupt(digest, stored, place)
                with _without_guards(session):
                    for table in TABLES:
                        columns = header["tables"][table.name]
                        _copy_in(session, table, columns, _open(tar, f"tables/{table.name}"))
                return _verified(session, store, file, header)
    except OperationalError:
        raise  # which `Database.transaction` has a name for
    except (*UNREADABLE, psycopg.Error, DBAPIError, BlobCorrupt) as error:
        raise DumpRefused(file, str(error).strip().split("\n")[0] or type(error).__name__) from error


def _verified(session: Session, store: Blobs, file: Path, header: dict[str, Any]) -> LedgerCheck:
    findings = verify.walk(session)
    if (heads := _heads(session)) != header["heads"]:
        findings.wrong("head-differs", "the dump", f"its chains end at {header['heads']}, read were {heads}")
    check = verify.read_blobs(store, findings)
    if check.problems:
        first = check.problems[0]
        cause = f"{len(check.problems)} problems, the first is {first.kind} in {first.object}: {first.detail}"
        raise DumpRefused(file, cause)
    return check


def _heads(session: Session) -> dict[str, list[Any]]:
    heads = session.scalars(select(Head).order_by(Head.model_id).execution_options(populate_existing=True))
    return {head.model_id: [head.number, head.hash] for head in heads}


@contextmanager
def _copying(session: Session, template: str, table: Table, columns: list[str]) -> Iterator[Copy]:
    """Run a COPY statement on psycopg's own connection, in the session's transaction."""
    connection: Any = session.connection().connection.driver_connection
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    statement = sql.SQL(template).format(sql.Identifier(table.name), names)
    try:
        with connection.cursor() as cursor, cursor.copy(statement) as copy:
            yield copy
    except psycopg.OperationalError as error:
        raise LedgerUnavailable(str(error)) from error


def _copy_out(session: Session, table: Table, rows: IO[bytes]) -> list[str]:
    columns = [column.name for column in table.columns]
    with _copying(session, "COPY {} ({}) TO STDOUT", table, columns) as copy:
        for data in copy:
            rows.write(data)
    return columns


def _copy_in(session: Session, table: Table, columns: list[str], rows: IO[bytes]) -> None:
    with _copying(session, "COPY {} ({}) FROM STDIN", table, columns) as copy:
        while data := rows.read(CHUNK):
            copy.write(data)
    for column in table.columns:
        if column.identity is not None:
            session.execute(
                text(
                    f"SELECT setval(pg_get_serial_sequence('{table.name}', '{column.name}'), "
                    f"(SELECT max({column.name}) FROM {table.name}))"
                )
            )


def _require_empty(session: Session) -> None:
    for table in TABLES:
        if session.execute(select(table).limit(1)).first() is not None:
            raise LedgerNotEmpty(table.name)


@contextmanager
def _without_guards(session: Session) -> Iterator[None]:
    """Let rows in as they are: no triggers of ours, and circular references checked at the end."""
    references = [
        (table.name, constraint.name)
        for table in TABLES
        for constraint in table.foreign_key_constraints
        if constraint.use_alter
    ]
    for table in TABLES:
        session.execute(text(f"ALTER TABLE {table.name} DISABLE TRIGGER USER"))
    for table_name, name in references:
        defer = f"ALTER TABLE {table_name} ALTER CONSTRAINT {name} DEFERRABLE INITIALLY DEFERRED"
        session.execute(text(defer))
    yield
    session.execute(text("SET CONSTRAINTS ALL IMMEDIATE"))
    for table_name, name in references:
        session.execute(text(f"ALTER TABLE {table_name} ALTER CONSTRAINT {name} NOT DEFERRABLE"))
    for table in TABLES:
        session.execute(text(f"ALTER TABLE {table.name} ENABLE TRIGGER USER"))


def _add(tar: tarfile.TarFile, name: str, content: IO[bytes]) -> None:
    info = tarfile.TarInfo(name)
    info.size = content.seek(0, io.SEEK_END)
    content.seek(0)
    tar.addfile(info, content)


def _open(tar: tarfile.TarFile, name: str) -> IO[bytes]:
    """Open a file of the dump; KeyError if there is none."""
    found = tar.extractfile(name)
    if found is None:
        raise KeyError(f"{name} is not a file")
    return found
