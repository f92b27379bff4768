"""Each answer is of one version's weights, always the same, and of a version that was live when it was asked."""

from __future__ import annotations

from collections import defaultdict

from tests.nemesis.checker.evidence import Evidence, Verdict
from tests.nemesis.checker.order import moves


def check(evidence: Evidence, verdict: Verdict) -> None:
    """Hold each answer and each look at an edit set against the versions that were live meanwhile."""
    live = _Live(evidence)
    weights = {row["number"]: row["weights_digest"] for row in evidence.versions}
    texts: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for entry in evidence.ops["generate"]:
        got, asked, token = entry["got"], entry["asked"], entry["token"]
        if got is None:
            continue
        verdict.answers += 1
        number = got["version"]
        if asked not in ("live", number):
            verdict.unexplained.append(f"answer {token} is of version {number}, asked was {asked}")
        if weights.get(number) != got["weights_digest"]:
            verdict.unexplained.append(f"answer {token} is not of the weights of version {number}")
        texts[got["weights_digest"], entry["prompt"]].add(got["text"])
        since = entry["t0"] - entry["away_s"]  # the database was out of reach, and the answer said so
        if asked == "live" and number not in live.between(since, entry["t1"]):
            verdict.unexplained.append(f"answer {token} is of version {number}, which was not live")
    for (digest, prompt), found in texts.items():
        if len(found) > 1:
            verdict.unexplained.append(f"the weights {digest} answer {prompt!r} with {sorted(found)}")
    for entry in evidence.ops["read"]:
        if entry.get("live") is not None:
            held = [entry["object"] in evidence.held(n) for n in live.between(entry["t0"], entry["t1"])]
            if entry["live"] not in held:
                verdict.unexplained.append(f"{entry['object']} was told to be live: {entry['live']}")


class _Live:
    """Which versions may have been live when, by the audit log and by what clients were answered."""

    def __init__(self, evidence: Evidence) -> None:
        moved = (*evidence.ops["roll_back"], *evidence.ops["promote"])
        answered = {entry["token"]: entry["t1"] for entry in moved if entry["got"] is not None}
        self._moves: list[tuple[int, float, float]] = []
        for move in moves(evidence.audit):
            sure = answered.get(move.event["detail"].get("reason"), float("inf"))
            self._moves.append((move.after, move.event["at"].timestamp(), sure))

    def between(self, begun: float, ended: float) -> set[int]:
        """The versions that may have been live at some time between two.

        A move is noted when its transaction begins, and is surely done once a client was told so.
        """
        first = max((i for i, (_, _, sure) in enumerate(self._moves) if sure < begun), default=0)
        last = max((i for i, (_, at, _) in enumerate(self._moves) if at <= ended), default=0)
        return {number for number, _, _ in self._moves[first : last + 1]}
