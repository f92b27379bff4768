"""The requests about edit sets, withdrawals, facts, keys and the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import uuid4

from errata.client.request import Record, Request, at, given, nothing, once
from errata.client.resources import AuditEvent, EditSet, Fact, HeldFact, Key, LedgerCheck, Withdrawal

# ---- edit sets


def create_edit(
    model: str,
    facts: Sequence[Record],
    *,
    promote: str | None = None,
    gate: Record | None = None,
    edit_on_rephrasings: bool | None = None,
    on_conflict: str | None = None,
    dry_run: bool | None = None,
    joiner: str | None = None,
    note: str | None = None,
    idempotency_key: str | None = None,
) -> Request[EditSet]:
    """Post an edit set, which a worker then applies and verifies.

    Args:
        model: Id of the model.
        facts: Each with a prompt and a target, and as much else as is known.
        promote: ``auto``, or ``manual`` to verify only.
        gate: Thresholds in place of the model's.
        edit_on_rephrasings: Whether rephrasings are edited too.
        on_conflict: ``replace`` or ``reject`` live facts that answer the same.
        dry_run: Whether to measure only, and make no version.
        joiner: Between prompt and target.
        note: Kept with the edit set.
        idempotency_key: A repeat under the same key is accepted once; by default a new one.
    """
    options = given(
        promote=promote,
        gate=gate,
        edit_on_rephrasings=edit_on_rephrasings,
        on_conflict=on_conflict,
        dry_run=dry_run,
        joiner=joiner,
        note=note,
    )
    body = {"model": model, "facts": list(facts), **options}
    return Request("POST", "/edits", EditSet, body=body, headers=once(idempotency_key))


def upload_edit(model: str, facts: Iterable[Record], **options: Any) -> Request[EditSet]:
    """Post an edit set whose facts are sent as they come, each on a line.

    Args:
        model: Id of the model.
        facts: Any iterable; it is read once, so a lost answer is not asked for again.
        options: As of `create`; a gate as JSON.
    """
    key = options.pop("idempotency_key", None) or uuid4().hex
    params = {
        name: str(value).lower() if isinstance(value, bool) else value for name, value in options.items()
    }
    return Request(
        "POST",
        "/edits",
        EditSet,
        params={"model": model, **params},
        lines=facts,
        headers={"Idempotency-Key": key, "Content-Type": "application/x-ndjson"},
        repeatable=False,
    )


def get_edit(edit_set: str) -> Request[EditSet]:
    """One edit set: status, progress, report."""
    return Request("GET", at("edits", edit_set), EditSet)


def list_edits(
    *,
    model: str | None = None,
    status: str | Sequence[str] | None = None,
    live: bool | None = None,
    created_after: str | None = None,
    created_before: str | None = None,
    created_by: str | None = None,
    q: str | None = None,
    limit: int | None = None,
) -> Request[EditSet]:
    """Edit sets, newest first.

    Args:
        model: Only this model's.
        status: Only those with this status, or one of some.
        live: Only those that the live version holds, or only others.
        created_after: Only those accepted at this time or later, such as 2026-01-31T12:00:00Z.
        created_before: Only those accepted earlier.
        created_by: Only those posted under this key's id.
        q: Only those with this text in their note or in a fact.
        limit: Edit sets of a page, of which all are fetched one by one.
    """
    params = {
        "model": model,
        "status": status,
        "live": live,
        "created_after": created_after,
        "created_before": created_before,
        "created_by": created_by,
        "q": q,
        "limit": limit,
    }
    return Request("GET", "/edits", EditSet, params=params)


def edit_facts(edit_set: str) -> Request[Fact]:
    """The facts of an edit set, each with what was measured for it."""
    return Request("GET", at("edits", edit_set, "facts"), Fact, params={"limit": 500})


def edit_events(edit_set: str) -> Request[EditSet]:
    """The states of an edit set, from the present to the final one."""
    return Request("GET", at("edits", edit_set, "events"), EditSet)


def cancel_edit(edit_set: str) -> Request[EditSet]:
    """Cancel an edit set that has not been applied; cancelling twice is fine."""
    return Request("POST", at("edits", edit_set, "cancel"), EditSet)


# ---- withdrawals


def list_withdrawals(
    *, model: str | None = None, status: str | Sequence[str] | None = None
) -> Request[Withdrawal]:
    """Withdrawals, newest first; of one model, or with some statuses."""
    return Request("GET", "/withdrawals", Withdrawal, params={"model": model, "status": status})


def get_withdrawal(withdrawal: str) -> Request[Withdrawal]:
    """One withdrawal: status, progress, version."""
    return Request("GET", at("withdrawals", withdrawal), Withdrawal)


def withdrawal_events(withdrawal: str) -> Request[Withdrawal]:
    """The states of a withdrawal, from the present to the final one."""
    return Request("GET", at("withdrawals", withdrawal, "events"), Withdrawal)


def cancel_withdrawal(withdrawal: str) -> Request[Withdrawal]:
    """Cancel a withdrawal whose version has not been made; cancelling twice is fine."""
    return Request("POST", at("withdrawals", withdrawal, "cancel"), Withdrawal)


# ---- facts


def search_facts(
    *,
    q: str | None = None,
    model: str | None = None,
    subject: str | None = None,
    source: str | None = None,
    author: str | None = None,
    ticket: str | None = None,
    live: bool | None = None,
) -> Request[HeldFact]:
    """The facts of all models, those accepted last first.

    Args:
        q: Only those with this text in prompt, target, subject, question or note.
        model: Only this model's.
        subject: Only those about this.
        source: Only those that are written there.
        author: Only those that this person states.
        ticket: Only those of this request.
        live: Only those that a live version holds, or only others.
    """
    params = {
        "q": q,
        "model": model,
        "subject": subject,
        "source": source,
        "author": author,
        "ticket": ticket,
        "live": live,
    }
    return Request("GET", "/facts", HeldFact, params=params)


# ---- keys, audit, ledger


def create_key(name: str, scopes: Sequence[str], *, expires_at: str | None = None) -> Request[Key]:
    """Make a key; its secret is in this answer only, so a lost answer is not asked for again.

    Args:
        name: Who or what it is for.
        scopes: Of ``generate``, ``read``, ``edit``, ``admin``, each of which holds those before it.
        expires_at: From when it is refused, such as 2030-01-31T12:00:00Z.
    """
    body = {"name": name, "scopes": list(scopes), **given(expires_at=expires_at)}
    return Request("POST", "/admin/keys", Key, body=body, repeatable=False)


def list_keys() -> Request[Key]:
    """Keys, newest first, revoked ones too."""
    return Request("GET", "/admin/keys", Key)


def revoke_key(key: str) -> Request[None]:
    """Revoke a key at once."""
    return Request("DELETE", at("admin", "keys", key), nothing)


def list_audit(
    *,
    object: str | None = None,  # noqa: A002 - the word of the API
    actor: str | None = None,
    action: str | None = None,
    since: str | None = None,
) -> Request[AuditEvent]:
    """Who did what, newest first.

    Args:
        object: Only what was done to this, such as ``models/m``, or to what lies below it.
        actor: Only what this key did, by its id.
        action: Only these, such as ``alias.set``.
        since: Only what was done at this time or later.
    """
    params = {"object": object, "actor": actor, "action": action, "since": since}
    return Request("GET", "/admin/audit", AuditEvent, params=params)


def verify_ledger() -> Request[LedgerCheck]:
    """Walk the ledger's hash chain and every blob."""
    return Request("GET", "/admin/ledger/verify", LedgerCheck)
