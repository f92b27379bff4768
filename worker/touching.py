"""Which facts of a version a prompt touches, answered from their stored statistics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from heapq import nsmallest
from typing import Any

from ledger import Ledger
from malmen_core.statistics import Statistics
from malmen_core.touching import Directions, edited_directions, likeness, prompt_directions
from worker.errors import InvalidRequest
from worker.resident import Resident


class Touching:
    """Finds the nearest facts; keeps what it read of the version that was asked about last.

    Not thread-safe.
    """

    def __init__(self, ledger: Ledger, resident: Resident) -> None:
        self._ledger, self._resident = ledger, resident
        self._kept: dict[str, Mapping[str, Directions]] = {}

    def nearest(
        self, version: int, request: Mapping[str, Any], check: Callable[[], None]
    ) -> list[tuple[str, int, float]]:
        """Edit set, position and score of the facts that a prompt touches most, the nearest first.

        Args:
            version: its number.
            request: ``prompt`` and ``limit``.
            check: called before each edit set is read; raises to abort.

        Raises:
            InvalidRequest: a field is missing, unknown or of the wrong type.
            PromptTooLong: the prompt has no tokens, or does not fit.
            LedgerError: the version or its statistics cannot be read.
        """
        prompt, limit = _read(request)
        directions = prompt_directions(self._resident.base, prompt)
        members = self._ledger.members(self._resident.model_id, version).values()
        wanted = {member.statistics_digest for member in members}
        self._kept = {digest: kept for digest, kept in self._kept.items() if digest in wanted}
        found = []
        for member in members:
            check()
            scores = likeness(directions, self._of(member.statistics_digest))
            left_out = set(member.left_out)
            found += [(-score, member.edit_set_id, at) for at, score in scores.items() if at not in left_out]
        return [(edit_set_id, at, -minus) for minus, edit_set_id, at in nsmallest(limit, found)]

    def _of(self, digest: str) -> Mapping[str, Directions]:
        if digest not in self._kept:
            statistics = Statistics.from_bytes(self._ledger.blobs.get(digest))
            self._kept[digest] = edited_directions(self._resident.base, statistics)
        return self._kept[digest]


def _read(request: Mapping[str, Any]) -> tuple[str, int]:
    unknown = sorted(request.keys() - {"prompt", "limit"})
    if unknown:
        raise InvalidRequest(f"there is no field {unknown[0]!r}")
    prompt, limit = request.get("prompt"), request.get("limit")
    if not isinstance(prompt, str):
        raise InvalidRequest("'prompt' must be a text")
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise InvalidRequest("'limit' must be a whole number from 1")
    return prompt, limit
