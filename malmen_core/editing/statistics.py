"""The statistics of an edit set: ``K`` and ``D`` of each module, whose rows they are, and what must stay.

Rows are all that the normal equation needs of a set. Sets are composed by stacking rows (``K'K`` and ``K'D``
are sums over rows), and a fact is withdrawn by leaving its rows out: exactly as if it had never been there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from malmen_core.editing.preserved import Group, Preserved
from malmen_core.errors import DeltaCorrupt, EditorMismatch, NotFiniteError
from malmen_core.serialization import digest, pack, unpack


@dataclass(frozen=True)
class Rows:
    """The rows of one module.

    Attributes:
        keys_TU: inputs of the module on the base at the edited tokens, ``K``; float32.
        differences_TV: wanted changes of its output there, ``D``; float32.
    """

    keys_TU: Tensor
    differences_TV: Tensor


def to_storage(values: Tensor) -> Tensor:
    """Float32 values on the CPU that float16 can hold, in half the room; as they were where it has not the range."""
    values = values.detach().float().cpu()
    half = values.half()
    return half.float() if bool(torch.isfinite(half).all()) else values


def check_finite(values: Mapping[str, Tensor]) -> None:
    """Check what was found of each module.

    Raises:
        NotFiniteError: naming the first module with an infinity or NaN.
    """
    for name, found in values.items():
        if not bool(torch.isfinite(found).all()):
            raise NotFiniteError(f"The statistics of {name!r} are not finite.", "Edit fewer or other facts.")


def _narrow(values: Tensor) -> Tensor:
    half = values.half()
    return half if torch.equal(half.float(), values) else values


@dataclass(frozen=True)
class Statistics:
    """``K``, ``D`` and ``A`` of a set of facts; all on the CPU.

    Attributes:
        modules: rows by module name.
        fact_T: the fact that each row belongs to, an index into the set; int64. The same for every module.
        fact_count: how many facts the set has.
        preserved: keys at which nothing may change.
    """

    modules: Mapping[str, Rows]
    fact_T: Tensor
    fact_count: int
    preserved: Preserved

    @classmethod
    def sum(cls, sets: Sequence[Statistics]) -> Statistics:
        """Statistics of all sets together, as if their facts had come in one.

        Facts are renumbered in the order given. An empty sequence gives statistics without modules.

        Raises:
            EditorMismatch: the sets edit different modules.
        """
        sets = [s for s in sets if s.modules]
        if not sets:
            return cls({}, torch.zeros(0, dtype=torch.int64), 0, Preserved({}, ()))
        names = list(sets[0].modules)
        if any(list(other.modules) != names for other in sets):
            raise EditorMismatch("The edit sets edit different modules.", "Sum sets that one editor made.")
        offsets: list[int] = torch.tensor([0, *(s.fact_count for s in sets)]).cumsum(0).tolist()
        modules = {
            name: Rows(
                torch.cat([s.modules[name].keys_TU for s in sets]),
                torch.cat([s.modules[name].differences_TV for s in sets]),
            )
            for name in names
        }
        facts = torch.cat([s.fact_T + offset for s, offset in zip(sets, offsets, strict=False)])
        preserved = Preserved.sum([s.preserved for s in sets], offsets[:-1])
        return cls(modules, facts, offsets[-1], preserved)

    def without(self, facts: Collection[int]) -> Statistics:
        """The same set without the rows of some facts (indices); the others keep their numbers."""
        if not facts:
            return self
        keep_T = ~torch.isin(self.fact_T, torch.tensor(sorted(facts), dtype=torch.int64))
        modules = {n: Rows(r.keys_TU[keep_T], r.differences_TV[keep_T]) for n, r in self.modules.items()}
        left = set(range(self.fact_count)) - set(facts)
        return Statistics(modules, self.fact_T[keep_T], self.fact_count, self.preserved.of(left))

    def check_finite(self) -> Statistics:
        """These statistics, if a delta can be solved from them.

        Raises:
            NotFiniteError: naming the module.
        """
        check_finite({name: rows.keys_TU for name, rows in self.modules.items()})
        check_finite({name: rows.differences_TV for name, rows in self.modules.items()})
        return self

    @cached_property
    def _packed(self) -> bytes:
        tensors = {"fact": self.fact_T}
        for name, rows in self.modules.items():
            tensors[f"{name}:keys"] = _narrow(rows.keys_TU)
            tensors[f"{name}:differences"] = _narrow(rows.differences_TV)
            tensors[f"{name}:preserved"] = _narrow(self.preserved.keys[name])
        groups = [[group.key, list(group.facts), group.rows] for group in self.preserved.groups]
        card = {"modules": list(self.modules), "fact_count": self.fact_count, "preserved": groups}
        return pack("statistics", card, tensors)

    def to_bytes(self) -> bytes:
        """Safetensors bytes; equal statistics give equal bytes, and nothing is lost."""
        return self._packed

    @cached_property
    def digest(self) -> str:
        """``sha256:…`` of `to_bytes`."""
        return digest(self._packed)

    @classmethod
    def from_bytes(cls, data: bytes) -> Statistics:
        """Read what `to_bytes` wrote.

        Raises:
            DeltaCorrupt: the bytes are something else.
        """
        card, tensors = unpack("statistics", data)
        try:
            names = card["modules"]
            keys, differences, preserved = (
                {name: tensors[f"{name}:{part}"].float() for name in names}
                for part in ("keys", "differences", "preserved")
            )
            modules = {name: Rows(keys[name], differences[name]) for name in names}
            groups = tuple(Group(key, tuple(facts), rows) for key, facts, rows in card["preserved"])
            return cls(modules, tensors["fact"], int(card["fact_count"]), Preserved(preserved, groups))
        except (KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
            raise DeltaCorrupt(f"The statistics lack {error}.", "Restore them from a backup.") from error
