"""Replaying a ledger: its deltas, and on request its statistics, are computed again and compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from errata.offline.offline_model import load_served
from ledger import Ledger
from ledger.errors import LedgerError
from ledger.records import LedgerProblem, Member, VersionRecord
from malmen_core.base import BaseModel
from malmen_core.compose import Composer
from malmen_core.delta import Delta
from malmen_core.edit import compute_statistics
from malmen_core.editor import Editor
from malmen_core.errors import CoreError
from malmen_core.statistics import Statistics
from worker.composing import solve, to_fact

Depth = Literal["statistics", "facts"]
KEPT_STATISTICS = 64
PAGE = 200
DELTA_TOLERANCE = 1e-5
"""Greatest relative difference (Frobenius norm) of a module's change that was solved on another machine."""
STATISTICS_TOLERANCE = 1e-2
"""The same for a module's keys and value differences: many rounds on the model make them."""


@dataclass
class Replay:
    """What was computed again.

    Attributes:
        deltas: Versions whose deltas were solved again.
        deltas_identical: Those whose digest came out the same.
        delta_error: Greatest relative difference of the others.
        statistics: Edit sets whose statistics were computed again from their facts.
        statistics_identical: Those whose digest came out the same.
        statistics_error: Greatest relative difference of the others.
        problems: What differs by more than its tolerance, or cannot be computed again.
    """

    deltas: int = 0
    deltas_identical: int = 0
    delta_error: float = 0.0
    statistics: int = 0
    statistics_identical: int = 0
    statistics_error: float = 0.0
    problems: list[LedgerProblem] = field(default_factory=list)

    def wrong(self, kind: str, place: str, detail: str) -> None:
        """Note a problem."""
        self.problems.append(LedgerProblem(kind, place, detail))


def replay(ledger: Ledger, depth: Depth, say: Callable[[str], None]) -> Replay:
    """Solve every version of every model again from the stored statistics of its facts, on its base.

    Args:
        ledger: To be read.
        depth: `facts` also computes each edit set's statistics again, on the base, from the facts' text.
        say: Told what is being computed.
    """
    found = Replay()
    for model in _pages(ledger.list_models):
        versions = sorted(
            _pages(lambda limit, cursor, ident=model.id: ledger.list_versions(ident, limit, cursor)),
            key=lambda version: version.number,
        )
        if not versions:
            continue
        say(f"Loading {model.id}")
        try:
            base = load_served(ledger, model, versions[0]).base  # whose version 0 needs no delta
        except (LedgerError, CoreError) as error:
            found.wrong("not-replayed", f"models/{model.id}", error.message)
            continue
        _replay_deltas(ledger, base, versions, found, say)
        if depth == "facts":
            _replay_facts(ledger, base, versions, found, say)
    return found


def _pages(listing: Callable[..., Any]) -> Iterator[Any]:
    cursor: str | None = None
    while True:
        page = listing(limit=PAGE, cursor=cursor)
        yield from page.items
        cursor = page.next_cursor
        if cursor is None:
            return


def _replay_deltas(
    ledger: Ledger,
    base: BaseModel,
    versions: Sequence[VersionRecord],
    found: Replay,
    say: Callable[[str], None],
) -> None:
    """Compare each delta with that which its members' statistics give; equal members are solved once."""

    @lru_cache(maxsize=KEPT_STATISTICS)
    def statistics_of(digest: str) -> Statistics:
        return Statistics.from_bytes(ledger.blobs.get(digest))

    @lru_cache(maxsize=1)
    def composer_of(editor_digest: str) -> Composer:
        return Composer(base, Editor.from_bytes(ledger.blobs.get(editor_digest)))

    @cache
    def on_rephrasings(edit_set_id: str) -> bool:
        return ledger.get_edit_set(edit_set_id).edit_on_rephrasings

    solved: dict[tuple[str, tuple[Member, ...]], Delta] = {}
    for version in versions:
        say(f"Solving version {version.number} of {version.model_id}")
        place = f"models/{version.model_id}/versions/{version.number}"
        key = (version.editor_digest, version.members)
        try:
            if key not in solved:
                solved.clear()  # deltas are large, and equal members mostly follow each other
                composer = composer_of(version.editor_digest)
                again = {ident for ident in version.edit_sets if on_rephrasings(ident)}
                solved[key] = solve(composer, version.members, again, statistics_of, ledger.facts_at).delta
            _compare_delta(ledger, version, solved[key], place, found)
        except (LedgerError, CoreError) as error:
            found.wrong("not-replayed", place, error.message)


def _compare_delta(
    ledger: Ledger,
    version: VersionRecord,
    again: Delta,
    place: str,
    found: Replay,
) -> None:
    found.deltas += 1
    if version.delta_digest == (again.digest if again.modules else None):
        found.deltas_identical += 1
        return
    stored = (
        Delta.from_bytes(ledger.blobs.get(version.delta_digest)) if version.delta_digest else Delta.empty()
    )
    if stored.modules.keys() != again.modules.keys():
        found.wrong("delta-differs", place, "solved again, it changes other modules")
        return
    error = max(
        relative(again.modules[name].dense(torch.float64), stored.modules[name].dense(torch.float64))
        for name in stored.modules
    )
    found.delta_error = max(found.delta_error, error)
    if not error <= DELTA_TOLERANCE:
        detail = f"solved again, its delta differs by {error:.2g} of its size; {DELTA_TOLERANCE:g} is allowed"
        found.wrong("delta-differs", place, detail)


def _replay_facts(
    ledger: Ledger,
    base: BaseModel,
    versions: Sequence[VersionRecord],
    found: Replay,
    say: Callable[[str], None],
) -> None:
    """Compare the statistics of each edit set with those that its facts give on the base."""
    members = {(m.edit_set_id, m.statistics_digest): v.editor_digest for v in versions for m in v.members}
    for (edit_set_id, digest), editor_digest in sorted(members.items()):
        place = f"edits/{edit_set_id}"
        say(f"Computing the statistics of {edit_set_id}")
        try:
            edit_set = ledger.get_edit_set(edit_set_id)
            again = compute_statistics(
                base,
                Editor.from_bytes(ledger.blobs.get(editor_digest)),
                [to_fact(fact) for fact in ledger.facts_of([Member(edit_set_id, digest)])],
                edit_on_rephrasings=edit_set.edit_on_rephrasings,
            )
            stored = Statistics.from_bytes(ledger.blobs.get(digest))
        except (LedgerError, CoreError) as error:
            found.wrong("not-replayed", place, error.message)
            continue
        found.statistics += 1
        found.statistics_identical += again.digest == digest
        apart = statistics_error(again, stored)
        found.statistics_error = max(found.statistics_error, apart)
        if not apart <= STATISTICS_TOLERANCE:
            detail = f"computed again, they differ by {apart:.2g}; {STATISTICS_TOLERANCE:g} is allowed"
            found.wrong("statistics-differ", place, detail)


def statistics_error(again: Statistics, stored: Statistics) -> float:
    """Greatest relative difference of a module's keys or value differences; infinite for other rows."""
    if again.modules.keys() != stored.modules.keys() or not torch.equal(again.fact_T, stored.fact_T):
        return float("inf")
    pairs = [(again.modules[name], stored.modules[name]) for name in stored.modules]
    return max(
        max(relative(a.keys_TU, b.keys_TU), relative(a.differences_TV, b.differences_TV)) for a, b in pairs
    )


def relative(found: Tensor, expected: Tensor) -> float:
    """``‖found - expected‖ / ‖expected‖``; infinite if the shapes differ, 0 for two zeros."""
    if found.shape != expected.shape:
        return float("inf")
    size = float(expected.double().norm())
    apart = float((found.double() - expected.double()).norm())
    return apart / size if size > 0 else apart
