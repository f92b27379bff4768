"""Aliases: names for versions. `live` is the one served by default, and says which edit sets are applied."""

from __future__ import annotations

import re
from collections.abc import Collection

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from ledger.auth import audit
from ledger.db import queries
from ledger.db.engine import Transaction
from ledger.db.tables import Alias, EditSet, Model, Version
from ledger.errors import AliasMoved, GateNotMet, InvalidName, NotFound, StaleParent
from ledger.records import Actor, VersionRecord
from ledger.versions import members, versions
from ledger.versions.versions import BASE, LIVE

ALIAS = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")


def point(session: Session, model_id: str, name: str, number: int, actor: Actor) -> None:
    """Point an alias at a version; moving `live` also moves the status of the edit sets it gains and loses.

    The model's head must be locked, and the version must exist.
    """
    if name == LIVE:
        _move_statuses(session, model_id, number)
    values = {"number": number, "updated_by": audit.actor_name(actor)}
    session.execute(
        insert(Alias)
        .values(model_id=model_id, name=name, **values)
        .on_conflict_do_update(
            index_elements=["model_id", "name"], set_={**values, "updated_at": func.clock_timestamp()}
        )
    )


def _move_statuses(session: Session, model_id: str, number: int) -> None:
    """What leaves the live version is withdrawn; what comes (back) into it is applied."""
    current = session.scalar(
        select(Alias.number).where(Alias.model_id == model_id, Alias.name == LIVE).with_for_update()
    )
    differing = members.difference(session, model_id, number if current is None else current, number)
    for moved, olds, new in (
        ([ident for ident, (_, after) in differing.items() if after is None], ["applied"], "withdrawn"),
        (
            [ident for ident, (before, _) in differing.items() if before is None],
            ["withdrawn", "rejected"],
            "applied",
        ),
    ):
        if moved:
            session.execute(
                update(EditSet)
                .where(queries.one_of(EditSet.id, moved), EditSet.status.in_(olds))
                .values(status=new)
                .execution_options(synchronize_session=False)
            )


def _lineage(session: Session, model_id: str, number: int) -> set[int]:
    """Return a version and those on which it was computed, back to the base."""
    line = select(Version.number, Version.parent).where(
        Version.model_id == model_id, Version.number == number
    )
    ancestors = line.cte("lineage", recursive=True)
    above = select(Version.number, Version.parent).where(
        Version.model_id == model_id, Version.number == ancestors.c.parent
    )
    return set(session.scalars(select(ancestors.union(above).c.number)))


def _check_promotion(session: Session, version: Version, live: int) -> None:
    """Refuse to make live what the gate refused, or what would silently drop facts applied since.

    Going back along the lineage of the live version is a rollback, and always allowed.
    """
    model_id, number = version.model_id, version.number
    if not version.gate_met:
        raise GateNotMet(model_id, number)
    related = number in _lineage(session, model_id, live) or live in _lineage(session, model_id, number)
    if not related:
        raise StaleParent(model_id, number, version.parent, live)


def set_alias(
    tx: Transaction,
    model_id: str,
    name: str,
    ref: int | str,
    actor: Actor,
    *,
    force: bool = False,
    reason: str | None = None,
    expected: Collection[int] | None = None,
) -> VersionRecord:
    """Point an alias at an existing version, and return the version.

    Args:
        tx: the transaction.
        model_id: the model.
        name: of the alias.
        ref: the version.
        actor: who asks.
        force: whether it may become live though it did not meet its gate.
        reason: for force.
        expected: version numbers, one of which it must point at now; None for any, or none.

    Raises:
        AliasMoved: it does not.
        InvalidName: the name is not allowed.
        NotFound, ModelNotReady: there is no such model or version, or none yet.
        GateNotMet, StaleParent: `live` was asked for, and this needs force with a reason.
        BlobMissing, BlobCorrupt: `live` was asked for, and the version's delta cannot be served.
    """
    if not ALIAS.fullmatch(name) or (name != LIVE and name.lower() in (BASE, LIVE)):
        rule = (
            f"up to 64 letters, digits, dashes and underscores, the first a letter, and not {BASE!r} or "
            f"{LIVE!r} in other case"
        )
        raise InvalidName("alias", name, rule, "/name")
    version = versions.find(tx, model_id, ref)
    versions.check_base(tx, model_id, version.number)
    if name == LIVE:
        _check_delta(tx, version.delta_digest)
    versions.lock_head(tx, model_id)
    _check_expected(tx, model_id, name, expected)
    forced = force and bool(reason and reason.strip())
    if name == LIVE and not forced:
        _check_promotion(tx, version, versions.find(tx, model_id, LIVE).number)
    point(tx, model_id, name, version.number, actor)
    detail = {"number": version.number, "force": force, "reason": reason}
    audit.record(tx, actor, "alias.set", f"models/{model_id}/aliases/{name}", detail)
    return versions.get(tx, model_id, version.number)


def _check_delta(tx: Transaction, delta_digest: str | None) -> None:
    """See that a version's delta is there, whole; before a lock is taken, since it may be large."""
    if delta_digest is not None:
        tx.blobs.check(delta_digest)


def number_of(session: Session, model_id: str, name: str) -> int:
    """Return the number of the version that an alias points at.

    Raises:
        NotFound: there is no such model or alias.
    """
    queries.find(session, Model, model_id, "model")
    number = queries.find_alias(session, model_id, name)
    if number is None:
        raise NotFound("alias", name)
    return number


def _check_expected(session: Session, model_id: str, name: str, expected: Collection[int] | None) -> None:
    """Refuse an alias that points elsewhere than is thought; the model's head must be locked."""
    if expected is None:
        return
    number = queries.find_alias(session, model_id, name)
    if number not in expected:
        raise AliasMoved(name, ", ".join(f'"{each}"' for each in expected), number)


def remove_alias(
    session: Session, model_id: str, name: str, actor: Actor, expected: Collection[int] | None = None
) -> None:
    """Remove an alias; its version stays. `expected` is as of `set_alias`.

    Raises:
        AliasMoved: it does not point where it is thought to.
        InvalidName: it is `live`, which a model always has.
        NotFound, ModelNotReady: there is no such model or alias, or no version yet.
    """
    if name == LIVE:
        raise InvalidName("removed alias", name, f"any other; {LIVE!r} can be pointed elsewhere", "/name")
    versions.lock_head(session, model_id)
    number = number_of(session, model_id, name)
    _check_expected(session, model_id, name, expected)
    session.execute(delete(Alias).where(Alias.model_id == model_id, Alias.name == name))
    audit.record(session, actor, "alias.remove", f"models/{model_id}/aliases/{name}", {"number": number})


def roll_back(
    tx: Transaction, model_id: str, to_version: int | str, reason: str, actor: Actor
) -> VersionRecord:
    """Make a new version with an earlier one's delta and members, and make it live.

    Raises:
        NotFound, ModelNotReady: there is no such model or version, or none yet.
        GateNotMet: the target never met its gate; use the alias with force.
        BlobMissing, BlobCorrupt: the target's delta cannot be served.
    """
    target = _restorable(tx, model_id, to_version)
    head = versions.lock_head(tx, model_id)
    before = versions.find(tx, model_id, LIVE).number
    draft = versions.Draft(
        kind="rollback",
        parent=before,
        restores=target.number,
        like=target.number,
        change={},
        delta_digest=target.delta_digest,
        weights_digest=target.weights_digest,
        gate_met=target.gate_met,
        report=target.report,
        reason=reason,
        created_by=audit.actor_name(actor),
    )
    made = versions.append(tx, head, draft)
    point(tx, model_id, LIVE, made.number, actor)
    detail = {"from": before, "to": target.number, "reason": reason, "hash": made.hash}
    audit.record(tx, actor, "model.roll_back", f"models/{model_id}/versions/{made.number}", detail)
    return versions.named(tx, made)


def preview(tx: Transaction, model_id: str, to_version: int | str) -> members.Difference:
    """Return what `roll_back` would change in the live version; raises what it raises."""
    target = _restorable(tx, model_id, to_version)
    return members.difference(tx, model_id, versions.live(tx, model_id).number, target.number)


def _restorable(tx: Transaction, model_id: str, ref: int | str) -> VersionRecord:
    """Return a version that may be live again."""
    target = versions.get(tx, model_id, ref)
    versions.check_base(tx, model_id, target.number)
    _check_delta(tx, target.delta_digest)
    if not target.gate_met:
        raise GateNotMet(model_id, target.number)
    return target
