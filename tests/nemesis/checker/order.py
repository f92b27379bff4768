"""One serial order explains all versions: each follows from what was live, and holds what its kind says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from tests.nemesis.checker.evidence import MODEL, Evidence, Row, Verdict

VERSIONS = f"models/{MODEL}/versions/"


@dataclass(frozen=True)
class Move:
    """One event that touches the chain or live, in the order of the audit log.

    Attributes:
        event: its row.
        made: the number of the version that it made, if it made one.
        before: where live pointed.
        after: where live points now.
    """

    event: Row
    made: int | None
    before: int | None
    after: int


def moves(audit: list[Row]) -> Iterator[Move]:
    """The moves of the model."""
    live: int | None = None
    for event in audit:
        action, place, detail = event["action"], str(event["object"]), event["detail"]
        number = int(place.rpartition("/")[2]) if place.startswith(VERSIONS) else None
        if action == "model.complete" and place == f"models/{MODEL}":
            move = Move(event, 0, live, 0)
        elif action == "version.commit" and number is not None:
            move = Move(event, number, live, number if detail["live"] or live is None else live)
        elif action == "model.roll_back" and number is not None:
            move = Move(event, number, live, number)
        elif action == "alias.set" and place == f"models/{MODEL}/aliases/live":
            move = Move(event, None, live, detail["number"])
        else:
            continue
        yield move
        live = move.after


def check(evidence: Evidence, verdict: Verdict) -> None:
    """Explain each version by the moves before it, and its members by its kind and its parent."""
    _check_order(evidence, verdict)
    _check_members(evidence, verdict)


def _check_order(evidence: Evidence, verdict: Verdict) -> None:
    numbers = [row["number"] for row in evidence.versions]
    verdict.versions = len(numbers)
    if numbers != list(range(len(numbers))):
        verdict.unexplained.append(f"the versions are numbered {numbers}")
    explained, live = 0, None
    for move in moves(evidence.audit):
        live = move.after
        if move.made is None:
            continue
        row = evidence.versions[move.made]
        expected = (explained, move.before, move.event["detail"]["hash"])
        if (move.made, row["parent"], row["hash"]) != expected:
            verdict.unexplained.append(
                f"version {move.made} with parent {row['parent']} came when live was {move.before}"
            )
        explained += 1
    if explained != len(numbers):
        verdict.unexplained.append(f"{len(numbers) - explained} versions without an event")
    if evidence.aliases.get("live") != live:
        verdict.unexplained.append(f"live is {evidence.aliases.get('live')}, by its events {live}")


def _check_members(evidence: Evidence, verdict: Verdict) -> None:
    newer: defaultdict[tuple[str, int], set[tuple[str, int]]] = defaultdict(set)
    for pair in evidence.supersessions:
        older = pair["older_edit_set_id"], pair["older_position"]
        newer[older].add((pair["newer_edit_set_id"], pair["newer_position"]))
    withdrawn = {row["version_number"]: row["edit_set_ids"] for row in evidence.withdrawals.values()}
    holds: dict[int, set[str]] = {}
    for row in evidence.versions:
        number = row["number"]
        wanted = holds[number] = _wanted(row, holds, withdrawn)
        held = evidence.held(number)
        if held.keys() != wanted:
            verdict.unexplained.append(f"version {number} holds {sorted(held)}, {sorted(wanted)} explains it")
        places = {(ident, at) for ident in held for at in range(evidence.sets[ident]["fact_count"])}
        left_out = {ident: list(member["superseded"]) for ident, member in held.items()}
        for ident, superseded in left_out.items():
            own = range(evidence.sets[ident]["fact_count"])
            if superseded != [at for at in own if newer[ident, at] & places]:
                verdict.unexplained.append(f"{ident} in version {number} has superseded {superseded}")
        live = len(places) - sum(map(len, left_out.values()))
        counts = row["edit_set_count"], row["live_fact_count"]
        if counts != (len(held), live):
            verdict.unexplained.append(f"version {number} counts {counts}")


def _wanted(row: Row, holds: dict[int, set[str]], withdrawn: dict[int | None, list[str]]) -> set[str]:
    """The edit sets that a version of this kind holds on this parent."""
    parent = holds.get(row["parent"], set())
    if row["kind"] == "edit":
        return parent | {row["edit_set_id"]}
    if row["kind"] == "rollback":
        return holds[row["restores"]]
    if row["kind"] == "withdraw":
        return parent - set(withdrawn.get(row["number"], []))
    return set()
