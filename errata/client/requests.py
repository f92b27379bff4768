"""Every request of the API as a value: the clients differ only in how they send it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote
from uuid import uuid4

from errata.client.resources import (
    Alias,
    AuditEvent,
    Change,
    Editor,
    EditSet,
    Fact,
    Generation,
    HeldFact,
    Key,
    LedgerCheck,
    Model,
    Resource,
    Version,
    Withdrawal,
)
from errata.errors import StackError

T = TypeVar("T")
R = TypeVar("R", bound=Resource)
Record = Mapping[str, Any]
Ref = int | str


@dataclass(frozen=True)
class Request(Generic[T]):
    """What to send, and how to read the answer.

    Attributes:
        method: of HTTP.
        path: with its parts quoted.
        read: makes the result of the answer's JSON.
        params: of the query; those that are None are left out.
        body: sent as JSON.
        lines: sent as JSON lines, as they come.
        content: sent as it is.
        headers: besides the client's.
        repeatable: whether it may be sent again when its answer was lost.
    """

    method: str
    path: str
    read: Callable[[Any], T]
    params: Record = field(default_factory=dict)
    body: Record | None = None
    lines: Iterable[Record] | None = None
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True


def at(*parts: object) -> str:
    """A path from its parts.

    Raises:
        StackError: One of them is not text that can be sent.
    """
    try:
        return "".join(f"/{quote(str(part), safe='')}" for part in parts)
    except UnicodeEncodeError as error:
        raise StackError(
            f"{error.object!r} cannot be part of an address: {error.reason}.", "Check --model and the ids."
        ) from error


def _given(**members: Any) -> dict[str, Any]:
    """The members that are not None."""
    return {name: value for name, value in members.items() if value is not None}


def _once(idempotency_key: str | None = None) -> dict[str, str]:
    """The header under which a request that was sent twice is done once."""
    return {"Idempotency-Key": idempotency_key or uuid4().hex}


def _nothing(_: Any) -> None:
    """What an answer without content says."""


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
    options = _given(
        promote=promote,
        gate=gate,
        edit_on_rephrasings=edit_on_rephrasings,
        on_conflict=on_conflict,
        dry_run=dry_run,
        joiner=joiner,
        note=note,
    )
    body = {"model": model, "facts": list(facts), **options}
    return Request("POST", "/edits", EditSet, body=body, headers=_once(idempotency_key))


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


# ---- models


def list_models() -> Request[Model]:
    """All registered models."""
    return Request("GET", "/models", Model)


def get_model(model: str, /) -> Request[Model]:
    """One model."""
    return Request("GET", at("models", model), Model)


def register_model(id: str, source: str, **options: Any) -> Request[Model]:  # noqa: A002
    """Register a base model; a worker then prepares it.

    Args:
        id: Its name in the service.
        source: Hub id or folder.
        options: ``revision``, ``modules``, ``editor`` (the digest of one that was uploaded), ``gate``.
    """
    body = {"id": id, "source": source, **options}
    return Request("POST", "/admin/models", Model, body=body, headers=_once())


def upload_editor(data: bytes) -> Request[Editor]:
    """Upload an editor, whose digest models are registered with.

    Args:
        data: The file of `errata train` or `calibrate`.
    """
    headers = {"Content-Type": "application/octet-stream"}
    return Request("POST", "/admin/editors", Editor, content=data, headers=headers)


def list_versions(model: str, /) -> Request[Version]:
    """The versions of a model, newest first."""
    return Request("GET", at("models", model, "versions"), Version)


def get_version(model: str, /, version: Ref = "live") -> Request[Version]:
    """One version, by number or alias."""
    return Request("GET", at("models", model, "versions", version), Version)


def version_of(withdrawal: Withdrawal) -> Request[Version | Withdrawal]:
    """A withdrawal, or its version once that has been made."""
    path = at("models", withdrawal.model, "versions", withdrawal.id)
    return Request("GET", path, lambda body: Withdrawal(body) if "status" in body else Version(body))


def list_changes(model: str, /, version: Ref = "live", *, since: Ref | None = None) -> Request[Change]:
    """The facts in which a version differs from another, by default its parent."""
    return Request(
        "GET", at("models", model, "versions", version, "changes"), Change, params={"since": since}
    )


def list_facts(model: str, /, version: Ref = "live") -> Request[HeldFact]:
    """The facts that a version holds."""
    return Request("GET", at("models", model, "facts"), HeldFact, params={"version": version})


def nearest_facts(
    model: str, /, prompt: str, *, version: Ref = "live", limit: int = 10
) -> Request[list[HeldFact]]:
    """The facts of a version that a prompt touches, the nearest first."""
    params = {"touching": prompt, "version": version, "limit": limit}
    return Request(
        "GET", at("models", model, "facts"), lambda body: read_items(HeldFact, body), params=params
    )


def read_items(kind: Callable[[dict[str, Any]], R], page: Record) -> list[R]:
    """The items of a list."""
    return [kind(item) for item in page["items"]]


def generate(
    model: str,
    /,
    prompt: str | None = None,
    *,
    version: Ref = "live",
    max_new_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: Sequence[str] | None = None,
    **more: Any,
) -> Request[Generation]:
    """Continue a prompt.

    Args:
        model: Id of the model.
        prompt: Text to continue.
        version: Number, alias or ``base``.
        max_new_tokens: Most tokens to generate.
        temperature: 0 is greedy.
        top_p: Nucleus of the distribution.
        seed: Makes sampling repeatable.
        stop: Strings at which the text ends.
        more: Other members that the service takes.
    """
    options = _given(
        prompt=prompt,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        stop=list(stop) if stop is not None else None,
    )
    return Request(
        "POST", at("models", model, "generate"), Generation, body={**options, "version": version, **more}
    )


def compare(model: str, /, prompt: str, versions: Sequence[Ref], **options: Any) -> Request[list[Generation]]:
    """Continue a prompt with several versions; options as of `generate`."""
    body = {"prompt": prompt, "versions": list(versions), **options}
    return Request(
        "POST", at("models", model, "generate"), lambda page: read_items(Generation, page), body=body
    )


def roll_back(model: str, /, to_version: int, reason: str, **options: Any) -> Request[Version]:
    """Make a version with an earlier one's weights, and make it live."""
    body = {"to_version": to_version, "reason": reason, **options}
    return Request("POST", at("admin", "models", model, "rollback"), Version, body=body, headers=_once())


def withdraw(
    model: str, /, reason: str, *, edit_sets: Sequence[str] = (), facts: Sequence[str] = (), **options: Any
) -> Request[Withdrawal]:
    """Have a version made without some edit sets and facts, and made live."""
    wanted = {"edit_sets": list(edit_sets), "facts": list(facts)}
    body = {"withdraw": wanted, "reason": reason, **options}
    path = at("admin", "models", model, "rollback")
    return Request("POST", path, Withdrawal, body=body, headers=_once())


def set_alias(
    model: str, /, name: str, version: int, *, expected: int | None = None, **options: Any
) -> Request[Alias]:
    """Point an alias at a version.

    Args:
        model: Id of the model.
        name: Of the alias.
        version: Its number.
        expected: The version that the alias must point at now; otherwise the service refuses (HTTP 412).
        options: ``force`` and ``reason``.
    """
    path, body = at("admin", "models", model, "aliases", name), {"version": version, **options}
    return Request("PUT", path, Alias, body=body, headers=_if_match(expected))


def _if_match(expected: int | None) -> dict[str, str]:
    return {} if expected is None else {"If-Match": f'"{expected}"'}


def archive_model(model: str, /) -> Request[Model]:
    """Archive a model; its ledger stays, and its id can be registered again."""
    return Request("DELETE", at("admin", "models", model), Model)


def delete_alias(model: str, /, name: str, *, expected: int | None = None) -> Request[None]:
    """Remove an alias; the version that it points at stays. `expected` is as of `set_alias`."""
    path = at("admin", "models", model, "aliases", name)
    return Request("DELETE", path, _nothing, headers=_if_match(expected))


# ---- keys, audit, ledger


def create_key(name: str, scopes: Sequence[str], *, expires_at: str | None = None) -> Request[Key]:
    """Make a key; its secret is in this answer only, so a lost answer is not asked for again.

    Args:
        name: Who or what it is for.
        scopes: Of ``generate``, ``read``, ``edit``, ``admin``, each of which holds those before it.
        expires_at: From when it is refused, such as 2030-01-31T12:00:00Z.
    """
    body = {"name": name, "scopes": list(scopes), **_given(expires_at=expires_at)}
    return Request("POST", "/admin/keys", Key, body=body, repeatable=False)


def list_keys() -> Request[Key]:
    """Keys, newest first, revoked ones too."""
    return Request("GET", "/admin/keys", Key)


def revoke_key(key: str) -> Request[None]:
    """Revoke a key at once."""
    return Request("DELETE", at("admin", "keys", key), _nothing)


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
