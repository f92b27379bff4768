"""Edit sets, cancellations, withdrawals and rollbacks: what was acknowledged is there, once, and has ended."""

from __future__ import annotations

from collections import Counter
from itertools import chain

from tests.nemesis.checker.digests import canonical, sha256
from tests.nemesis.checker.evidence import Evidence, Row, Verdict, by_mark

ENDED = {"applied", "rejected", "failed", "cancelled", "withdrawn", "verified"}
TOLD = {"verifying": "running", "applied": "succeeded", "withdrawn": "succeeded", "verified": "succeeded"}
"""What clients are told of the statuses that have another name for them."""
FINAL = {"succeeded", "rejected", "failed", "cancelled"}
AWAY_S = 121
"""For so long what was known stands in for a database that does not answer; the seconds are rounded up."""
BAD_BLOB = {"blob-corrupt", "blob-missing"}
WRITES = {"post", "cancel", "roll_back", "withdraw", "promote", "remove_alias"}
WRITES |= {"make_key", "revoke_key", "register", "remove"}


def check(evidence: Evidence, verdict: Verdict) -> None:
    """Count, and hold what was asked against what is kept."""
    for entry in evidence.history:
        if "fault" in entry:
            verdict.faults += 1
            verdict.faults_not_done += entry["not_done"] is not None
        if "op" in entry:
            _count(entry, verdict)
    _check_posts(evidence, verdict)
    _check_facts(evidence, verdict)
    _check_ends(evidence, verdict)
    _check_reads(evidence, verdict)
    _check_cancels(evidence, verdict)
    _check_withdrawals(evidence, verdict)
    _check_rollbacks(evidence, verdict)
    _check_idempotency(evidence, verdict)


def _count(entry: Row, verdict: Verdict) -> None:
    """Count, and see that an answer is a grant, a named refusal, or none at all."""
    verdict.requests += 1
    status, problem, away_s = entry["status"], entry.get("problem"), entry["away_s"]
    if away_s > AWAY_S or (away_s and entry.get("needs", entry["op"]) != "generate"):
        verdict.unexplained.append(f"{entry['op']} {entry['token']} rests on what was {away_s} s old")
    if 200 <= status < 300:
        verdict.acknowledged += entry["op"] in WRITES
    elif status == 0:
        verdict.refusals["no answer"] += 1
    else:
        verdict.refusals[f"{status} {problem}"] += 1
        known = str(problem).startswith("urn:errata:problem:")
        expected = status == 500 and str(problem).rpartition(":")[2] in BAD_BLOB
        if not known or (status >= 500 and status != 503 and not expected):
            verdict.unexplained.append(f"{entry['op']} {entry['token']} was answered {status} {problem}")


def _check_posts(evidence: Evidence, verdict: Verdict) -> None:
    by_note = by_mark(list(evidence.sets.values()), "note")
    tokens = {entry["token"]: entry for entry in evidence.ops["post"]}
    for note in by_note.keys() - tokens.keys():
        verdict.unexplained.append(f"an edit set with the note {note} that nobody posted")
    for token, entry in tokens.items():
        found = {row["id"] for row in by_note.get(token, [])}
        if len(found) > 1:
            verdict.doubled.append(f"post {token} made {sorted(found)}")
        answered = {ident for status, ident in entry["answers"] if status == 202}
        if answered and not found:
            verdict.lost.append(f"post {token}, acknowledged as {answered}")
        if answered and found != answered:
            verdict.unexplained.append(f"post {token} was answered with {answered}")


def _check_facts(evidence: Evidence, verdict: Verdict) -> None:
    posted = {entry["token"]: entry["facts"] for entry in evidence.ops["post"]}
    names = ("prompt", "target", "subject")
    for ident, row in evidence.sets.items():
        facts = evidence.facts[ident]
        kept = [[fact[name] for name in names] for fact in facts]
        said = [[fact[name] for name in names] for fact in posted.get(row["note"], facts)]
        if said != kept or row["fact_count"] != len(said):
            verdict.lost.append(f"facts of {ident}: {said} were posted, {kept} are kept")
        hashed = [[fact[name] for name in (*names, "rephrasings", "locality")] for fact in facts]
        if sha256(canonical(hashed)) != row["facts_digest"]:
            verdict.unexplained.append(f"the facts of {ident} do not hash to their digest")


def _check_ends(evidence: Evidence, verdict: Verdict) -> None:
    made = Counter(row["edit_set_id"] for row in evidence.versions if row["edit_set_id"])
    for row in (*evidence.sets.values(), *evidence.withdrawals.values()):
        ident, status, error = row["id"], row["status"], row["error"] or {}
        if status not in ENDED:
            verdict.lost.append(f"{ident} was left {status}")
        code = str(error.get("type", "")).rpartition(":")[2]
        if status == "failed" and not (evidence.blobs_were_damaged and code in BAD_BLOB):
            verdict.unexplained.append(f"{ident} failed of {code}: {error.get('detail')}")
    for ident, row in evidence.sets.items():
        wanted = int(row["status"] in ("applied", "rejected", "withdrawn"))
        if made[ident] != wanted:
            kind = verdict.doubled if made[ident] > wanted else verdict.lost
            kind.append(f"{ident} is {row['status']} and has {made[ident]} versions")
    for job in evidence.jobs:
        if job["finished_at"] is None or job["lease_expires_at"] is not None:
            verdict.unexplained.append(f"job {job['id']} is unfinished or leased")


def _check_reads(evidence: Evidence, verdict: Verdict) -> None:
    """What is acknowledged is found, and an end that was told is the end, unless a refused set is forced live."""
    for entry in evidence.ops["read"]:
        ident, told = entry["object"], entry["got"]
        if entry["status"] == 404:
            verdict.lost.append(f"{ident} was acknowledged, and not found by read {entry['token']}")
        row = evidence.sets.get(ident) or evidence.withdrawals.get(ident)
        if told not in FINAL or row is None:
            continue
        end = TOLD.get(row["status"], row["status"])
        if told != end and (told, end) != ("rejected", "succeeded"):
            verdict.unexplained.append(
                f"{ident} was told to be {told} by read {entry['token']}, and is {end}"
            )


def _check_cancels(evidence: Evidence, verdict: Verdict) -> None:
    asked = {entry["object"] for entry in evidence.ops["cancel"]}
    all_at_once = any(entry["cancels"] for entry in evidence.ops["roll_back"])
    rows = {**evidence.sets, **evidence.withdrawals}
    for entry in evidence.ops["cancel"]:
        if entry["status"] == 200 and rows[entry["object"]]["status"] != "cancelled":
            verdict.lost.append(f"the cancellation of {entry['object']}")
    for ident, row in rows.items():
        if row["status"] == "cancelled" and ident not in asked and not all_at_once:
            verdict.unexplained.append(f"{ident} was cancelled, and nobody asked for it")


def _check_withdrawals(evidence: Evidence, verdict: Verdict) -> None:
    by_reason = by_mark(list(evidence.withdrawals.values()), "reason")
    asked = {entry["token"]: entry for entry in evidence.ops["withdraw"]}
    for reason in by_reason.keys() - asked.keys():
        verdict.unexplained.append(f"a withdrawal for the reason {reason} that nobody asked for")
    for token, entry in asked.items():
        found = by_reason.get(token, [])
        if len(found) > 1:
            verdict.doubled.append(f"withdrawal {token}")
        if entry["status"] == 202 and [row["id"] for row in found] != [entry["got"]]:
            verdict.lost.append(f"withdrawal {token}, acknowledged as {entry['got']}")
    made = {row["number"] for row in evidence.versions if row["kind"] == "withdraw"}
    for number, count in Counter(row["version_number"] for row in evidence.withdrawals.values()).items():
        if number is not None and (count > 1 or number not in made):
            verdict.unexplained.append(f"version {number} is of {count} withdrawals")
    for row in evidence.withdrawals.values():
        if (row["status"] == "applied") != (row["version_number"] is not None):
            verdict.unexplained.append(f"{row['id']} is {row['status']} with version {row['version_number']}")


def _check_rollbacks(evidence: Evidence, verdict: Verdict) -> None:
    by_reason = by_mark([row for row in evidence.versions if row["kind"] == "rollback"], "reason")
    asked = {entry["token"]: entry for entry in evidence.ops["roll_back"]}
    for reason in by_reason.keys() - asked.keys():
        verdict.unexplained.append(f"a rollback for the reason {reason} that nobody asked for")
    for token, entry in asked.items():
        found = by_reason.get(token, [])
        if len(found) > 1:
            verdict.doubled.append(f"rollback {token}")
        if entry["status"] == 200 and [row["number"] for row in found] != [entry["got"]]:
            verdict.lost.append(f"rollback {token}, acknowledged as version {entry['got']}")
        if any(row["restores"] != entry["to"] for row in found):
            verdict.unexplained.append(f"rollback {token} restored another version")


def _check_idempotency(evidence: Evidence, verdict: Verdict) -> None:
    """Each key that is kept is of a request that was made, and has what is given to its repeats."""
    keyed = ("post", "cancel", "withdraw", "roll_back", "make_key", "register")
    asked = {entry["token"] for entry in chain.from_iterable(evidence.ops[op] for op in keyed)}
    for row in evidence.idempotency:
        token, ident = row["idempotency_key"], row["edit_set_id"]
        if token not in asked:
            verdict.unexplained.append(f"an idempotency key {token} that nobody sent")
        if ident is None and row["answer"] is None:
            verdict.unexplained.append(f"the idempotency key {token} has nothing to give to repeats")
        if ident is not None and ident not in evidence.sets:
            verdict.unexplained.append(f"the idempotency key {token} is of {ident}, which is not there")
    for ident, count in Counter(row["edit_set_id"] for row in evidence.idempotency).items():
        if ident is not None and count > 1:
            verdict.unexplained.append(f"{count} idempotency keys are of {ident}")
