"""A correction of a corrected fact replaces it: the older fact's rows are left out of the new version.

Two facts ask the same if their prompts are equal but for case, width and white space. Without this, both
would be solved for at once, and the answer would be neither.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from ledger.records import Member
from malmen_core.facts import normalise

KEPT_SETS = 1024


class Prompts:
    """The normalised prompts of edit sets, in the order of their facts; they never change, and are kept."""

    def __init__(self, read: Callable[[str], Iterable[str]]) -> None:
        self._read = read
        self._kept: OrderedDict[str, tuple[str, ...]] = OrderedDict()

    def of(self, edit_set_id: str) -> tuple[str, ...]:
        """Return the prompts of an edit set, from the ledger the first time."""
        if edit_set_id not in self._kept:
            self._kept[edit_set_id] = tuple(normalise(prompt) for prompt in self._read(edit_set_id))
            if len(self._kept) > KEPT_SETS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(edit_set_id)
        return self._kept[edit_set_id]


def supersede(members: Sequence[Member], prompts: Prompts, new_prompts: Iterable[str]) -> tuple[Member, ...]:
    """Leave out of some members the facts that new prompts ask again.

    A member stays even if none of its facts is left: it is part of the version's history.

    Args:
        members: the live version's.
        prompts: reads the prompts of an edit set.
        new_prompts: of the edit set to be applied.
    """
    asked = {normalise(prompt) for prompt in new_prompts}
    result = []
    for member in members:
        asked_of = enumerate(prompts.of(member.edit_set_id))
        again = {position for position, prompt in asked_of if prompt in asked}
        withdrawn = tuple(sorted(again | set(member.withdrawn)))
        result.append(replace(member, withdrawn=withdrawn))
    return tuple(result)
