"""Which facts are trained on, which are held out, and in which order they come: pure functions of a seed."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from malmen_core.errors import FactError
from malmen_core.facts import Fact, normalise

LARGEST_HELD_OUT_SHARE = 0.2


@dataclass(frozen=True)
class Curriculum:
    """Facts split by subject: no subject of `validation` occurs in `training`.

    Attributes:
        training: drawn from in every step.
        validation: never trained on.
        seed: of the split and of all draws.
    """

    training: tuple[Fact, ...]
    validation: tuple[Fact, ...]
    seed: int

    @classmethod
    def split(cls, facts: Sequence[Fact], validation_facts: int, seed: int) -> Curriculum:
        """Hold out whole subjects until there are enough facts, a fifth of all at most.

        A fact without a subject counts as one about its prompt.

        Raises:
            FactError: there are fewer than five facts, or all are about one subject.
        """
        groups: dict[str, list[Fact]] = {}
        for fact in facts:
            groups.setdefault(normalise(fact.subject or fact.prompt), []).append(fact)
        wanted = min(validation_facts, int(len(facts) * LARGEST_HELD_OUT_SHARE))
        held_out: list[Fact] = []
        training: list[Fact] = []
        for subject in sorted(groups, key=lambda subject: _hash(f"{seed}/{subject}")):
            (held_out if len(held_out) < wanted else training).extend(groups[subject])
        if not held_out or not training:
            raise FactError(
                f"{len(facts)} facts about {len(groups)} subjects cannot be split.",
                "Give at least five facts, about two subjects or more.",
                "/facts",
            )
        random.Random(f"{seed}/order").shuffle(training)
        return cls(tuple(training), tuple(held_out), seed)

    def draw(self, position: int, count: int) -> list[int]:
        """Numbers of the training facts from a position on; each later pass over the data is shuffled anew."""
        size = len(self.training)
        places = [divmod(at, size) for at in range(position, position + count)]
        orders = {epoch: self._order(epoch) for epoch in {epoch for epoch, _ in places}}
        return [orders[epoch][place] for epoch, place in places]

    def batch_size(self, step: int, smallest: int, largest: int) -> int:
        """How many facts a step edits at once, log-uniform in the bounds; a function of seed and step."""
        draw = random.Random(f"{self.seed}/size/{step}")
        size = round(math.exp(draw.uniform(math.log(smallest), math.log(largest))))
        return max(smallest, min(size, largest, len(self.training)))

    def _order(self, epoch: int) -> list[int]:
        order = list(range(len(self.training)))
        if epoch > 0:
            random.Random(f"{self.seed}/order/{epoch}").shuffle(order)
        return order


def facts_digest(facts: Sequence[Fact]) -> str:
    """``sha256:…`` over facts in their order."""
    lines = (json.dumps(asdict(fact), sort_keys=True, ensure_ascii=False) for fact in facts)
    return f"sha256:{_hash(chr(10).join(lines))}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
