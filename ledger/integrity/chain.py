"""Hashes of what the ledger records. Pure functions: the same content has the same hash, for ever.

Changing anything here makes every existing chain invalid; golden tests stand guard.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ledger.errors import NotANumber, UnstorableText
from ledger.records import FactReport, Member, VersionRecord

PROVENANCE = ("source", "author", "ticket", "note", "expires_at")
EXACT = 2**53  # integers below this are exact as floats


def digest(content: bytes) -> str:
    """Return `sha256:` and 64 hexadecimal digits."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def storable(value: object, field: str = "") -> Any:
    """Return the value as plain JSON that PostgreSQL returns unchanged; tuples become lists.

    Args:
        value: anything made of mappings with string keys, sequences, strings, numbers, booleans and None.
        field: JSON pointer of the value, for errors.

    Raises:
        UnstorableText: a string holds NUL or a lone surrogate.
        NotANumber: a number is not finite, or the value is none of these.
    """
    match value:
        case None | bool() | int():
            return value
        case float() if math.isfinite(value):
            return value
        case str():
            if "\0" in value or not _encodable(value):
                raise UnstorableText(field)
            return value
        case Mapping() if all(isinstance(key, str) for key in value):
            return {
                storable(key, field): storable(item, f"{field}/{_escape(key)}") for key, item in value.items()
            }
        case list() | tuple():
            return [storable(item, f"{field}/{index}") for index, item in enumerate(value)]
        case _:
            raise NotANumber(field, value)


def _encodable(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _escape(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _normal(value: Any) -> Any:
    """Write equal numbers alike: jsonb does not keep 1.0 and 1, or 1e16 and its digits, apart."""
    match value:
        case bool():
            return value
        case float() if value.is_integer() and abs(value) < EXACT:
            return int(value)
        case int() if abs(value) >= EXACT:
            return float(value)
        case dict():
            return {key: _normal(item) for key, item in value.items()}
        case list():
            return [_normal(item) for item in value]
        case _:
            return value


def canonical_json(value: object) -> bytes:
    """Return the one JSON text of a value: keys sorted, no spaces, UTF-8, equal numbers written alike.

    Raises:
        UnstorableText, NotANumber: as `storable` says.
    """
    return json.dumps(
        _normal(storable(value)),
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
    ).encode()


def moment(at: datetime) -> str:
    """Return a time as UTC to the microsecond, however the database's zone is set."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def facts_digest(facts: Sequence[Mapping[str, Any]]) -> str:
    """Return the digest of an edit set's facts, in their order.

    Args:
        facts: each with prompt, target, subject, rephrasings and locality, and with its question, its joiner
            and what is known of its provenance, if it has any.
    """
    return digest(canonical_json([fact_content(fact) for fact in facts]))


def fact_content(fact: Mapping[str, Any]) -> list[Any]:
    """Return what the digest of an edit set's facts covers of one of them."""
    content = [
        fact["prompt"],
        fact["target"],
        fact["subject"],
        list(fact["rephrasings"]),
        list(fact["locality"]),
    ]
    known = {name: fact[name] for name in ("question", *PROVENANCE) if fact.get(name) is not None}
    if fact.get("joiner", "auto") != "auto":
        known["joiner"] = fact["joiner"]
    if "expires_at" in known:
        known["expires_at"] = moment(known["expires_at"])
    return [*content, known] if known else content


def fact_reports_digest(reports: Iterable[FactReport]) -> str:
    """Return the digest of a version's reports of single facts, in any order."""
    rows = sorted((report.edit_set_id, report.position, report.report) for report in reports)
    return digest(canonical_json(rows))


def member_content(member: Member) -> list[Any]:
    """Return what a hash covers of a member."""
    return [
        member.edit_set_id,
        member.facts_digest,
        member.statistics_digest,
        list(member.withdrawn),
        list(member.superseded),
    ]


def version_hash(version: VersionRecord, closed: Iterable[Member], opened: Iterable[Member]) -> str:
    """Return the hash of a version: of all that its row says, of what it changes, and of the previous hash.

    Args:
        version: its own `hash` and `aliases` are not looked at.
        closed: members of the version numbered one less that are not in it as they were there.
        opened: its members that are not in the version numbered one less as they are here.
    """
    content = {
        **_row_content(version),
        "format": 2,
        "members_digest": version.members_digest,
        "edit_set_count": version.edit_set_count,
        "closed": sorted(member.edit_set_id for member in closed),
        "opened": [member_content(member) for member in sorted(opened)],
    }
    return digest(canonical_json(content))


def first_version_hash(version: VersionRecord, members: Iterable[Member]) -> str:
    """Return the hash of a version as releases before intervals made it: over all its members."""
    content = sorted(
        [
            member.edit_set_id,
            member.facts_digest,
            member.statistics_digest,
            *member.withdrawn,
            *([{"superseded": member.superseded}] if member.superseded else []),
        ]
        for member in members
    )
    return digest(canonical_json({**_row_content(version), "members": content}))


def _row_content(version: VersionRecord) -> dict[str, Any]:
    return {
        "previous_hash": version.previous_hash,
        "model": version.model_id,
        "number": version.number,
        "kind": version.kind,
        "parent": version.parent,
        "restores": version.restores,
        "edit_set": version.edit_set_id,
        "live_fact_count": version.live_fact_count,
        "base_digest": version.base_digest,
        "editor_digest": version.editor_digest,
        "delta_digest": version.delta_digest,
        "weights_digest": version.weights_digest,
        "statistics_digest": version.statistics_digest,
        "fact_reports_digest": version.fact_reports_digest,
        "report": version.report,
        "gate_met": version.gate_met,
        "reason": version.reason,
        "created_at": moment(version.created_at),
        "created_by": version.created_by,
    }
