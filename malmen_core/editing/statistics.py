"""The statistics of an edit set: ``K`` and ``D`` of each module, and which fact each row belongs to.

Rows are all that the normal equation needs of a set. Sets are composed by stacking rows (``K'K`` and
``K'D`` are sums over rows),
and a fact is withdrawn by leaving its rows out: exactly as if it had never been there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from malmen_core.errors import DeltaCorrupt, EditorMismatch
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


def rounded(values: Tensor) -> Tensor:
    """Float32 values that float16 can hold, in half the room; as they were where it has not the range."""
    half = values.half()
    return (half if bool(torch.isfinite(half).all()) else values).float()


def kept(values: Tensor, base_dtype: torch.dtype) -> Tensor:
    """Values as they are kept of a set: `rounded`, but whole in float32 for a base in float64."""
    return values.float() if base_dtype == torch.float64 else rounded(values)


def _narrow(values: Tensor) -> Tensor:
    half = values.half()
    return half if torch.equal(half.float(), values) else values


@dataclass(frozen=True)
class Statistics:
    """``K`` and ``D`` of a set of facts.

    Attributes:
        modules: rows by module name.
        fact_T: the fact that each row belongs to, an index into the set; int64. The same for every module.
        fact_count: how many facts the set has.
    """

    modules: Mapping[str, Rows]
    fact_T: Tensor
    fact_count: int

    @classmethod
    def sum(cls, sets: Sequence[Statistics]) -> Statistics:
        """Statistics of all sets together, as if their facts had come in one.

        Facts are renumbered in the order given. An empty sequence gives statistics without modules, which add
        nothing to others.

        Raises:
            EditorMismatch: the sets edit different modules.
        """
        sets = [s for s in sets if s.modules]
        if not sets:
            return cls({}, torch.zeros(0, dtype=torch.int64), 0)
        names = list(sets[0].modules)
        if any(list(other.modules) != names for other in sets):
            raise EditorMismatch("The edit sets edit different modules.", "Sum sets that one editor made.")
        offsets = torch.tensor([0, *(s.fact_count for s in sets)]).cumsum(0)
        modules = {
            name: Rows(
                torch.cat([s.modules[name].keys_TU for s in sets]),
                torch.cat([s.modules[name].differences_TV for s in sets]),
            )
            for name in names
        }
        facts = torch.cat([s.fact_T + offset for s, offset in zip(sets, offsets.tolist(), strict=False)])
        return cls(modules, facts, int(offsets[-1]))

    def without(self, facts: Collection[int]) -> Statistics:
        """The same set without the rows of some facts; the others keep their numbers.

        Args:
            facts: indices into the set.
        """
        gone = torch.tensor(sorted(facts), dtype=torch.int64)
        kept = ~torch.isin(self.fact_T, gone)
        modules = {name: Rows(r.keys_TU[kept], r.differences_TV[kept]) for name, r in self.modules.items()}
        return Statistics(modules, self.fact_T[kept], self.fact_count)

    @cached_property
    def _packed(self) -> bytes:
        asking_T = self.asking_T
        tensors = {"fact": self.fact_T, "asking": asking_T.nonzero()[:, 0]}
        for name, rows in self.modules.items():
            tensors[f"{name}:keys"] = _narrow(rows.keys_TU)
            tensors[f"{name}:differences"] = _narrow(rows.differences_TV[asking_T])
        return pack("statistics", {"modules": list(self.modules), "fact_count": self.fact_count}, tensors)

    @property
    def asking_T(self) -> Tensor:
        """Rows with a difference in some module (T, bool); the others are anchors, which ask for nothing."""
        asking = [rows.differences_TV.any(1) for rows in self.modules.values()]
        return torch.stack(asking).any(0) if asking else torch.zeros(0, dtype=torch.bool)

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
            modules = {}
            for name in card["modules"]:
                keys_TU, asked_RV = tensors[f"{name}:keys"].float(), tensors[f"{name}:differences"].float()
                differences_TV = asked_RV.new_zeros(len(keys_TU), asked_RV.shape[1])
                differences_TV[tensors["asking"]] = asked_RV
                modules[name] = Rows(keys_TU, differences_TV)
            return cls(modules, tensors["fact"], int(card["fact_count"]))
        except (KeyError, IndexError, RuntimeError) as error:
            raise DeltaCorrupt(f"The statistics lack {error}.", "Restore them from a backup.") from error
