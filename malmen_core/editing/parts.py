"""What is kept in memory of a live edit set, once its statistics have been read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from malmen_core.editing.editor import Editor
from malmen_core.editing.ridge import projector
from malmen_core.editing.statistics import Statistics

SetId = tuple[str, tuple[int, ...]]
"""Digest of a set's statistics, and the facts that are left out of it, in order."""


@dataclass(frozen=True)
class EditedRows:
    """One module's rows at a set's edited tokens.

    Attributes:
        keys_TU: float32.
        differences_TV: what was asked for there; float32.
        alone_TV: what the set gives there when it is solved alone, at strength 1; float64.
    """

    keys_TU: Tensor
    differences_TV: Tensor
    alone_TV: Tensor


@dataclass(frozen=True)
class Part:
    """A set's rows at edited tokens; its anchors, which ask for nothing, are only counted.

    Attributes:
        modules: rows by module.
        fact_T: the fact of each row.
        place_T: where each row stands among all of the set's.
        rows: how many rows the set has in all.
        edit_on_rephrasings: whether its facts are edited with their rephrasings.
    """

    modules: Mapping[str, EditedRows]
    fact_T: Tensor
    place_T: Tensor
    rows: int
    edit_on_rephrasings: bool

    @property
    def facts(self) -> int:
        """How many facts have rows."""
        return len(torch.unique(self.fact_T))

    @classmethod
    def of(cls, editor: Editor, statistics: Statistics, edit_on_rephrasings: bool) -> Part:
        """Solve a set alone, and keep what it does at its edited tokens.

        Args:
            editor: whose regularisers are used.
            statistics: without the facts that are left out.
            edit_on_rephrasings: whether the facts are edited with their rephrasings.
        """
        asked = [rows.differences_TV.abs().amax(1) > 0 for rows in statistics.modules.values()]
        place_T = torch.stack(asked).any(0).nonzero()[:, 0]
        modules, regularisers = {}, editor.regularisers_of(len(torch.unique(statistics.fact_T)))
        for name, rows in statistics.modules.items():
            keys_TU, differences_TV = rows.keys_TU[place_T], rows.differences_TV[place_T]
            left_UT = projector(rows.keys_TU, regularisers[name], place_T)
            alone_TV = keys_TU.double() @ (left_UT @ differences_TV.double())
            modules[name] = EditedRows(keys_TU, differences_TV, alone_TV)
        count = len(statistics.fact_T)
        return cls(modules, statistics.fact_T[place_T], place_T, count, edit_on_rephrasings)
