"""API keys.

A made secret has 256 random bits, so a plain SHA-256 of it is enough: there is nothing to guess, and a slow
hash would only make every request slow. A key that an operator sets (ERRATA_ADMIN_KEY) is as strong as the
operator made it; at least 16 characters are asked for, and the documentation asks for random ones.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, and_, any_, func, literal, or_, select, update
from sqlalchemy.orm import Session

from ledger.auth import audit
from ledger.db import queries
from ledger.db.tables import Key
from ledger.errors import InvalidName, LedgerError
from ledger.integrity.chain import storable
from ledger.records import Actor, KeyRecord, Page

SCOPES = ("generate", "read", "edit", "admin")
"""From the least: each holds those before it."""
USED_EVERY = timedelta(minutes=1)
"""How exactly the last use of a key is kept."""
PREFIX = "errata"
MINIMUM_GIVEN_LENGTH = 16
SENDABLE = re.compile(r"[!-~][ -~]*[!-~]")
"""What a header carries as it is."""


class WeakSecret(LedgerError):
    """A given administrator key that is too short to be a secret, or cannot be sent in a header."""

    code, status, title = "weak-secret", 422, "The key is too short"

    def __init__(self, minimum: int) -> None:
        super().__init__(
            f"An administrator key must have at least {minimum} characters, all of printable ASCII.",
            remedy="Set ERRATA_ADMIN_KEY to a long random string of letters and digits; or, to have one made,"
            " leave it unset and remove the file at ERRATA_ADMIN_KEY_FILE.",
        )


class RevokedSecret(LedgerError):
    """A given administrator key that was revoked, or replaced by another."""

    code, status, title = "revoked-secret", 409, "The key was revoked"

    def __init__(self, ident: str) -> None:
        super().__init__(
            f"The given administrator key was revoked, as key {ident!r}, and stays so.",
            remedy="Set ERRATA_ADMIN_KEY to another, or remove the file at ERRATA_ADMIN_KEY_FILE: one is "
            "made at the next start if no other admin key is in force.",
        )


def grants(key: KeyRecord, scope: str) -> bool:
    """Return whether a key has a scope, by name or by a greater one."""
    return not key.scopes.isdisjoint(SCOPES[SCOPES.index(scope) :])


def generate() -> tuple[str, str]:
    """Return a new key's id and its secret `errata_<id>_<random>`."""
    ident = secrets.token_hex(6)
    return ident, f"{PREFIX}_{ident}_{secrets.token_urlsafe(32)}"


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _record(row: Key) -> KeyRecord:
    return KeyRecord(
        id=row.id,
        name=row.name,
        scopes=frozenset(row.scopes),
        created_at=row.created_at,
        created_by=row.created_by,
        revoked_at=row.revoked_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
    )


def create(
    session: Session,
    name: str,
    scopes: Collection[str],
    secret: str | None = None,
    *,
    actor: Actor,
    expires_at: datetime | None = None,
) -> tuple[KeyRecord, str]:
    """Make a key and return it with its secret, which is not stored.

    Raises:
        InvalidName: a scope that does not exist, or none at all.
        WeakSecret: the given secret is too short, or no header can carry it.
    """
    storable(name, "/name")
    wrong = sorted(set(scopes) - {*SCOPES})
    if wrong or not scopes:
        raise InvalidName("scope", ", ".join(wrong), f"one or more of {', '.join(SCOPES)}", "/scopes")
    ident, made = generate()
    if secret is not None and (len(secret) < MINIMUM_GIVEN_LENGTH or not SENDABLE.fullmatch(secret)):
        raise WeakSecret(MINIMUM_GIVEN_LENGTH)
    row = Key(
        id=ident,
        name=name,
        scopes=sorted(set(scopes)),
        digest=_hash(secret or made),
        given=secret is not None,
        created_by=audit.actor_name(actor),
        expires_at=expires_at,
    )
    session.add(row)
    session.flush()
    audit.record(session, actor, "key.create", f"keys/{ident}", {"name": name, "scopes": row.scopes})
    return _record(row), secret or made


def authenticate(session: Session, secret: str) -> KeyRecord | None:
    """Return the key with this secret, or None if there is none, or it is revoked or has expired.

    A made secret names its own row; the few given ones are all compared. Both in constant time.
    """
    wanted = _hash(secret)
    prefix, _, rest = secret.partition("_")
    ident = rest.partition("_")[0] if prefix == PREFIX and rest.isascii() and "\0" not in rest else None
    candidates = session.scalars(select(Key).where(_in_force(), Key.given.is_(True) | (Key.id == ident)))
    found = None
    for row in candidates:
        if hmac.compare_digest(row.digest, wanted):
            found = _record(row)
    return found


def _in_force() -> ColumnElement[bool]:
    return and_(Key.revoked_at.is_(None), or_(Key.expires_at.is_(None), Key.expires_at > func.now()))


def note_use(session: Session, key: KeyRecord) -> bool:
    """Note that a key was used, to the minute; return whether anything was written.

    Who comes while another notes it does not wait.
    """
    if key.last_used_at is not None and datetime.now(UTC) - key.last_used_at < USED_EVERY:
        return False
    free = select(Key.id).where(Key.id == key.id).with_for_update(skip_locked=True).scalar_subquery()
    noted = update(Key).where(Key.id == free).values(last_used_at=func.now())
    session.execute(noted.execution_options(synchronize_session=False))
    return True


def ensure_admin(session: Session, secret: str) -> KeyRecord:
    """Make the given secret the administrator's, once; another one given before is revoked.

    Raises:
        RevokedSecret: it was the administrator's, and was revoked.
        WeakSecret: as `create` says.
    """
    session.execute(select(func.pg_advisory_xact_lock(0x6B657973)))  # two processes may start at once
    given = session.scalars(select(Key).where(Key.given.is_(True), Key.created_by == "system")).all()
    wanted = _hash(secret)
    same = [row for row in given if hmac.compare_digest(row.digest, wanted)]
    kept = [row for row in same if row.revoked_at is None]
    if same and not kept:
        raise RevokedSecret(same[0].id)
    for row in given:
        if row not in kept and row.revoked_at is None:
            revoke(session, row.id, "system")
    if kept:
        return _record(kept[0])
    record, _ = create(session, "admin", {"admin"}, secret, actor="system")
    return record


def has_admin(session: Session) -> bool:
    """Return whether a key that administers is in force."""
    query = select(Key.id).where(_in_force(), literal("admin") == any_(Key.scopes))
    return session.scalar(query.limit(1)) is not None


def get(session: Session, ident: str) -> KeyRecord:
    """Return a key, revoked or not.

    Raises:
        NotFound: there is no such key.
    """
    return _record(queries.find(session, Key, ident, "key"))


def list_all(session: Session, limit: int = 50, cursor: str | None = None) -> Page[KeyRecord]:
    """Return a page of keys, newest first, revoked ones too."""
    return queries.page(session, select(Key), Key.seq, "keys", limit, cursor, lambda row: _record(row.Key))


def names(session: Session) -> dict[str, str]:
    """Return the name of every key by its id, revoked ones too."""
    return dict(session.execute(select(Key.id, Key.name)).all())


def revoke(session: Session, ident: str, actor: Actor) -> KeyRecord:
    """Revoke a key, at once and for good; a key already revoked stays as it is.

    Raises:
        NotFound: there is no such key.
    """
    row = queries.find(session, Key, ident, "key", lock=True)
    if row.revoked_at is None:
        session.execute(update(Key).where(Key.id == ident).values(revoked_at=func.now()))
        session.refresh(row)
        audit.record(session, actor, "key.revoke", f"keys/{ident}", {"name": row.name})
    return _record(row)
