"""What models are taught and edited with: ParaRel's facts as statements, as questions, or as claims.

ParaRel (Elazar et al. 2021) gives facts, and for each relation the patterns that state it. Only subjects with
one fact are used, so a question has one answer, and each subject is in one of the parts of a `Split`.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.question_facts import QUESTIONS

TRUE, FALSE = "SUPPORTS", "REFUTES"
MOST_PHRASINGS = 6
FEWEST_PHRASINGS = 3
TRAINING_DRAWS = 4
Record = Mapping[str, str]
Patterns = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Question:
    """One thing that a model is taught.

    Attributes:
        relation: ParaRel's name of it.
        subject: what it is about; stands in every phrasing.
        phrasings: the same question in several wordings.
        answer: what is taught.
        target: what it is changed to by an edit.
    """

    relation: str
    subject: str
    phrasings: tuple[str, ...]
    answer: str
    target: str


def read_pararel(folder: Path) -> tuple[list[Record], Patterns]:
    """Facts, and patterns by relation, of the folder's ``facts.jsonl`` and ``patterns.jsonl``."""
    facts = [json.loads(line) for line in (folder / "facts.jsonl").read_text("utf-8").splitlines()]
    lines = (folder / "patterns.jsonl").read_text("utf-8").splitlines()
    return facts, {each["relation"]: each["patterns"] for each in map(json.loads, lines)}


Maker = Callable[[Sequence[Record], Patterns, random.Random], Iterator[Sequence[Question]]]
"""Makes the questions about each subject, subject by subject."""


def statements(
    facts: Sequence[Record], patterns: Patterns, draw: random.Random
) -> Iterator[Sequence[Question]]:
    """Statements whose last word is the object, which is left to the model."""
    openings = {relation: _openings(texts) for relation, texts in patterns.items()}
    yield from _one_each(facts, openings, draw)


def questions(
    facts: Sequence[Record], patterns: Patterns, draw: random.Random
) -> Iterator[Sequence[Question]]:
    """Questions that are answered with the object."""
    del patterns
    yield from _one_each(facts, QUESTIONS, draw)


def claims(facts: Sequence[Record], patterns: Patterns, draw: random.Random) -> Iterator[Sequence[Question]]:
    """A true claim and a false one about each subject; an edit reverses the verdict."""
    others = _Others(facts, draw)
    for fact in facts:
        subject, known = fact["subject"], patterns[fact["relation"]]
        if len(known) < FEWEST_PHRASINGS:
            continue
        chosen = draw.sample(list(known), min(len(known), MOST_PHRASINGS))
        pair = []
        for stated, answer, target in (
            (fact["object"], TRUE, FALSE),
            (others.than(fact), FALSE, TRUE),
        ):
            texts = tuple(p.replace("[X]", subject).replace("[Y]", stated).replace(" .", ".") for p in chosen)
            pair.append(Question(fact["relation"], subject, texts, answer, target))
        yield pair


def _one_each(
    facts: Sequence[Record], wordings: Patterns, draw: random.Random
) -> Iterator[Sequence[Question]]:
    others = _Others(facts, draw)
    for fact in facts:
        known = wordings.get(fact["relation"], ())
        if len(known) >= FEWEST_PHRASINGS:
            chosen = draw.sample(list(known), min(len(known), MOST_PHRASINGS))
            texts = tuple(text.replace("{}", fact["subject"]) for text in chosen)
            yield [Question(fact["relation"], fact["subject"], texts, fact["object"], others.than(fact))]


def _openings(patterns: Sequence[str]) -> list[str]:
    """What stands in front of the object, of the patterns that end with it."""
    kept: dict[str, None] = {}
    for pattern in patterns:
        before, _, after = pattern.partition("[Y]")
        if "[X]" in before and not after.strip(" ."):
            kept[before.strip().replace("[X]", "{}")] = None
    return list(kept)


class _Others:
    """Draws other objects of a fact's relation, as often as they occur there."""

    def __init__(self, facts: Sequence[Record], draw: random.Random) -> None:
        self.draw = draw
        self.objects: dict[str, list[str]] = {}
        for fact in facts:
            self.objects.setdefault(fact["relation"], []).append(fact["object"])

    def than(self, fact: Record) -> str:
        return self.draw.choice([o for o in self.objects[fact["relation"]] if o != fact["object"]])


@dataclass(frozen=True)
class Split:
    """All that a model is taught, and what of it is edited; no two parts share a subject.

    Attributes:
        taught: every question.
        reported: records in the API's form, to be edited and reported on.
        tuning: likewise, to choose a plan with.
        training: about the same subjects, each several times in other wordings, to train editors on.
        field: taught prompts with their answers, for the prior; no other part asks about them.
    """

    taught: tuple[Question, ...]
    reported: tuple[Mapping[str, Any], ...]
    tuning: tuple[Mapping[str, Any], ...]
    training: tuple[Mapping[str, Any], ...]
    field: tuple[Mapping[str, Any], ...]


def split(folder: Path, maker: Maker, subjects: int, seed: int) -> Split:
    """Draw subjects: a third to report on, a third to tune with, and a third whose answers must stay.

    A quarter of these is asked about with the first third, a quarter with the second, and half is for the
    prior. Training asks about all of them but the first quarter.

    Args:
        folder: of ParaRel.
        maker: the form of the questions.
        subjects: how many in all.
        seed: of all draws.

    Raises:
        ValueError: ParaRel has not as many.
    """
    facts, patterns = read_pararel(folder)
    counts = Counter(fact["subject"] for fact in facts)
    single = [fact for fact in facts if counts[fact["subject"]] == 1]
    by_relation = {fact["relation"]: set[str]() for fact in single}
    for fact in single:
        by_relation[fact["relation"]].add(fact["object"])
    single = [fact for fact in single if len(by_relation[fact["relation"]]) > 1]
    draw = random.Random(seed)
    draw.shuffle(single)
    groups = [tuple(group) for _, group in zip(range(subjects), maker(single, patterns, draw), strict=False)]
    if len(groups) < subjects:
        raise ValueError(f"ParaRel gives {len(groups)} subjects in this form, not {subjects}.")
    third = subjects // 3
    tuning, kept = groups[third : 2 * third], groups[2 * third :]
    others = [group for i, group in enumerate(kept) if i % 4]
    return Split(
        tuple(question for group in groups for question in group),
        _records(groups[:third], kept[::4], draw),
        _records(tuning, kept[1::4], draw),
        tuple(record for _ in range(TRAINING_DRAWS) for record in _records(tuning, others, draw)),
        tuple(
            {"prompt": q.phrasings[0], "target": q.answer, "rephrasings": q.phrasings[1:]}
            for group in (*kept[2::4], *kept[3::4])
            for q in group
        ),
    )


def _records(
    groups: Sequence[Sequence[Question]], kept: Sequence[Sequence[Question]], draw: random.Random
) -> tuple[dict[str, Any], ...]:
    """One question of each subject as a fact, with two rephrasings and two probes about kept subjects.

    One probe is of the fact's own relation, if any kept subject has it, and one of any.
    """
    probes = [question for group in kept for question in group]
    same: dict[str, list[Question]] = {}
    for probe in probes:
        same.setdefault(probe.relation, []).append(probe)
    made = []
    for group in groups:
        chosen = draw.choice(list(group))
        prompt, *others = draw.sample(chosen.phrasings, 3)
        near, far = draw.choice(same.get(chosen.relation, probes)), draw.choice(probes)
        made.append(
            {
                "prompt": prompt,
                "target": chosen.target,
                "subject": chosen.subject,
                "rephrasings": others,
                "locality": [{"prompt": draw.choice(p.phrasings), "target": p.answer} for p in (near, far)],
                "true_target": chosen.answer,
            }
        )
    return tuple(made)
