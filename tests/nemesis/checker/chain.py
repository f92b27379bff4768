"""The chain of versions: members, reports and rows hash again to what is recorded."""

from __future__ import annotations

from typing import Any

from tests.nemesis.checker.digests import PRIME, canonical, expanded, moment, sha256
from tests.nemesis.checker.evidence import Evidence, Row, Verdict

SAME_NAME = (
    *("previous_hash", "number", "kind", "parent", "restores", "live_fact_count", "base_digest"),
    *("editor_digest", "delta_digest", "weights_digest", "statistics_digest", "fact_reports_digest"),
    *("report", "gate_met", "reason", "created_by", "members_digest", "edit_set_count"),
)


def check(evidence: Evidence, verdict: Verdict) -> None:
    """Hash every version anew, from the first to the head."""
    previous, product = None, 1
    for row in evidence.versions:
        number = row["number"]
        opened = [evidence.member(each) for each in evidence.memberships if each["from_version"] == number]
        closed = [evidence.member(each) for each in evidence.memberships if each["to_version"] == number]
        for member in opened:
            product = product * expanded(member) % PRIME
        for member in closed:
            product = product * pow(expanded(member), -1, PRIME) % PRIME
        if sha256(product.to_bytes(384, "big")) != row["members_digest"]:
            verdict.unexplained.append(f"the members of version {number} do not hash to their digest")
        of_facts = evidence.reports[number]
        reports = sorted([each["edit_set_id"], each["position"], each["report"]] for each in of_facts)
        if sha256(canonical(reports)) != row["fact_reports_digest"]:
            verdict.unexplained.append(f"the reports of version {number} do not hash to their digest")
        if _hash(row, opened, closed) != row["hash"] or row["previous_hash"] != previous:
            verdict.unexplained.append(f"version {number} breaks the chain")
        previous = row["hash"]
    if (evidence.head["number"], evidence.head["hash"]) != (len(evidence.versions) - 1, previous):
        verdict.unexplained.append("the head is not the newest version")


def _hash(row: Row, opened: list[list[Any]], closed: list[list[Any]]) -> str:
    content = {name: row[name] for name in SAME_NAME} | {
        "model": row["model_id"],
        "edit_set": row["edit_set_id"],
        "created_at": moment(row["created_at"]),
        "format": 2,
        "closed": sorted(member[0] for member in closed),
        "opened": sorted(opened, key=lambda member: str(member[0])),
    }
    return sha256(canonical(content))
