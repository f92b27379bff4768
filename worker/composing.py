"""From the members of a version to its delta: the sum of their statistics, solved once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ledger.records import Member
from malmen_core.delta import Delta
from malmen_core.edit import solve
from malmen_core.editor import Editor
from malmen_core.statistics import Statistics


def compose(
    editor: Editor,
    members: Sequence[Member],
    statistics_of: Callable[[str], Statistics],
    progress: Callable[[str, int, int], None],
) -> Delta:
    """Solve for the facts of all members together; none give the empty delta, which is the base itself.

    Depends on the editor and on which facts are held, never on how they came to be: members are summed in the
    order of their ids.

    Args:
        editor: the model's.
        members: of the version.
        statistics_of: reads an edit set's statistics by digest.
        progress: told ``("solving", done, total)``; may raise to abort.
    """
    parts = []
    progress("solving", 0, len(members))
    for number, member in enumerate(sorted(members), start=1):
        statistics = statistics_of(member.statistics_digest)
        parts.append(statistics.without(member.withdrawn) if member.withdrawn else statistics)
        progress("solving", number, len(members))
    return solve(editor, Statistics.sum(parts))
