"""Aliases, keys and models: what was acknowledged is there, once, and keys open what their scope says."""

from __future__ import annotations

from collections import Counter

from tests.nemesis.checker.evidence import MODEL, Evidence, Row, Verdict

SCOPES = ("generate", "read", "edit", "admin")
"""Each holds those before it."""


def check(evidence: Evidence, verdict: Verdict) -> None:
    """Hold what administrators asked against what is kept."""
    _check_promotions(evidence, verdict)
    _check_removed_aliases(evidence, verdict)
    _check_keys(evidence, verdict)
    _check_models(evidence, verdict)


def _check_promotions(evidence: Evidence, verdict: Verdict) -> None:
    set_by: dict[str, list[Row]] = {}
    for event in evidence.audit:
        if event["action"] == "alias.set":
            set_by.setdefault(event["detail"]["reason"], []).append(event)
    for entry in evidence.ops["promote"]:
        events = set_by.pop(entry["token"], [])
        if len(events) > 1:
            verdict.doubled.append(f"promotion {entry['token']}")
        if entry["status"] == 200 and not events:
            verdict.lost.append(f"promotion {entry['token']}")
        for event in events:
            place = f"models/{MODEL}/aliases/{entry['name']}"
            if event["object"] != place or event["detail"]["number"] != entry["number"]:
                verdict.unexplained.append(f"promotion {entry['token']} did something else")
    if set_by:
        verdict.unexplained.append(f"promotions that nobody asked for: {sorted(map(str, set_by))}")


def _check_removed_aliases(evidence: Evidence, verdict: Verdict) -> None:
    removed = sum(event["action"] == "alias.remove" for event in evidence.audit)
    asked = evidence.ops["remove_alias"]
    granted = sum(entry["status"] == 204 for entry in asked)
    open_ended = sum(entry["status"] in (0, 503) for entry in asked)
    if removed < granted:
        verdict.lost.append(f"{granted - removed} removals of aliases")
    if removed > granted + open_ended:
        verdict.doubled.append(f"{removed - granted - open_ended} removals of aliases")


def _check_keys(evidence: Evidence, verdict: Verdict) -> None:
    names = Counter(row["name"] for row in evidence.keys.values())
    for entry in evidence.ops["make_key"]:
        if names[entry["token"]] > 1:
            verdict.doubled.append(f"key {entry['token']}")
        kept = evidence.keys.get(entry["got"])
        if entry["status"] == 201 and (kept is None or kept["scopes"] != [entry["scope"]]):
            verdict.lost.append(f"key {entry['token']}, acknowledged as {entry['got']}")
    for entry in evidence.ops["revoke_key"]:
        if entry["status"] == 204 and evidence.keys[entry["key"]]["revoked_at"] is None:
            verdict.lost.append(f"the revocation of {entry['key']}")
    for entry in evidence.ops["use_key"]:
        refused = entry["status"] in (401, 403)
        granted = 200 <= entry["status"] < 500 and not refused
        opens = SCOPES.index(entry["scope"]) >= SCOPES.index(entry["needs"])
        if entry["revoked"] and granted and not entry["away_s"]:
            verdict.lost.append(f"the revocation of {entry['key']}, which was used afterwards")
        elif not entry["revoked"] and opens and refused:
            verdict.lost.append(f"key {entry['key']}, which was refused")
        elif granted and not opens:
            verdict.unexplained.append(f"key {entry['key']} of {entry['scope']} opened {entry['needs']}")


def _check_models(evidence: Evidence, verdict: Verdict) -> None:
    asked = {entry["model"]: entry for entry in evidence.ops["register"]}
    for entry in asked.values():
        if entry["status"] in (200, 202) and entry["model"] not in evidence.models:
            verdict.lost.append(f"model {entry['model']}")
    for entry in evidence.ops["remove"]:
        if entry["status"] == 200 and evidence.models[entry["model"]]["status"] != "archived":
            verdict.lost.append(f"the removal of {entry['model']}")
    for ident in evidence.models.keys() - asked.keys() - {MODEL}:
        verdict.unexplained.append(f"model {ident}, which nobody registered")
