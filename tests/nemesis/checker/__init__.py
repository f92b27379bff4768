"""Decides from a history, the database and the blobs whether Errata kept its promises.

It shares no code with Errata: SQL, hashes and file formats are written down here once more. What it is given is a
stand that was left to finish its work, with every fault undone and unnamed blobs collected.
"""

from __future__ import annotations

from pathlib import Path

from tests.nemesis.checker import administration, answers, chain, order, requests, stored
from tests.nemesis.checker.evidence import Evidence, Verdict


def judge(history: Path, url: str, blobs: Path, checkpoint: Path) -> Verdict:
    """Judge a run by its history, its database, its blobs and the checkpoint that was registered."""
    evidence, verdict = Evidence(history, url, blobs, checkpoint), Verdict()
    for part in (requests, administration, order, chain, stored, answers):
        part.check(evidence, verdict)
    return verdict
