"""The requests about models: what one says, its versions, and what administrators do with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from errata.client.request import Ref, Request, at, given, nothing, once, read_items
from errata.client.resources import Alias, Change, Editor, Generation, HeldFact, Model, Version, Withdrawal


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
    return Request("POST", "/admin/models", Model, body=body, headers=once())


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
    options = given(
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
    return Request("POST", at("admin", "models", model, "rollback"), Version, body=body, headers=once())


def withdraw(
    model: str, /, reason: str, *, edit_sets: Sequence[str] = (), facts: Sequence[str] = (), **options: Any
) -> Request[Withdrawal]:
    """Have a version made without some edit sets and facts, and made live."""
    wanted = {"edit_sets": list(edit_sets), "facts": list(facts)}
    body = {"withdraw": wanted, "reason": reason, **options}
    path = at("admin", "models", model, "rollback")
    return Request("POST", path, Withdrawal, body=body, headers=once())


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
    return Request("DELETE", path, nothing, headers=_if_match(expected))
