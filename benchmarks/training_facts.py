"""Facts to train the editors of a model on, and facts that they never see, from ParaRel and CounterFact.

    python -m benchmarks.training_facts --pararel DIR --counterfact FILE --model FOLDER --out DIR

A fact is stated by one of its relation's patterns. Its rephrasing is another pattern, or, in turn, the question
as the user's turn of the model's chat template with the statement as the beginning of the answer. Its locality
prompt states the same relation of another subject. Half of ParaRel's facts are true, half get the object of
another fact of their relation. CounterFact's records are taken as they are, some of them asked for in chat too.

`train.jsonl` is shuffled. `subjects.jsonl` has other subjects of the same relations, `relations.jsonl` relations
that `train.jsonl` has none of; no subject of either occurs in it, nor, with `--trained-on FILE`, in another such
list, for which more is then held out. All of what is held out gets the object of another fact of its relation, so
what the base knows by itself counts for nothing.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.question_facts import QUESTIONS
from malmen_core.facts import normalise
from malmen_core.models.tokenization import chat_prompt, load_tokenizer

HELD_OUT_RELATIONS = ("P20", "P108", "P127", "P178", "P407", "P740")
"""Some with questions and some without, each with several patterns."""
Record = dict[str, Any]


def statements(patterns: Mapping[str, Sequence[str]], relation: str) -> list[str]:
    """A relation's patterns that end in the object, without it, with ``{}`` for the subject."""
    ending = [pattern.rstrip(" .") for pattern in patterns[relation]]
    return [
        " ".join(pattern.removesuffix("[Y]").replace("[X]", "{}").split())
        for pattern in ending
        if pattern.endswith("[Y]") and "[X]" in pattern
    ]


class Maker:
    """Makes facts in this project's form from ParaRel's and CounterFact's."""

    def __init__(
        self, facts: Sequence[Mapping[str, str]], patterns: Mapping[str, Sequence[str]], tokenizer: Any
    ) -> None:
        """Find what can be stated of each relation.

        Args:
            facts: ParaRel's: relation, subject, object.
            patterns: by relation.
            tokenizer: of the model whose chat template is used; one without a template is asked in none.
        """
        self.tokenizer = tokenizer
        self.statements = {relation: statements(patterns, relation) for relation in patterns}
        self.by_relation: dict[str, list[Mapping[str, str]]] = {}
        for fact in facts:
            if self.statements.get(fact["relation"]):
                self.by_relation.setdefault(fact["relation"], []).append(fact)

    def asked(self, question: str, beginning: str) -> str:
        """A question in the chat template, with the beginning of the answer; that alone without a template."""
        return (chat_prompt(self.tokenizer, question) or "") + beginning

    def pararel(self, fact: Mapping[str, str], draw: random.Random, chat: bool, true: bool) -> Record:
        """One fact of ParaRel."""
        relation, subject, target = fact["relation"], fact["subject"], fact["object"]
        stated = draw.sample(self.statements[relation], min(3, len(self.statements[relation])))
        first, second, third = stated[0], stated[min(1, len(stated) - 1)], stated[-1]
        others = self.by_relation[relation]
        other = draw.choice(others)
        while normalise(other["subject"]) == normalise(subject):
            other = draw.choice(others)
        if not true:
            target = draw.choice([each["object"] for each in draw.sample(others, 8)])
        rephrasing = second.format(subject)
        probe = third.format(other["subject"])
        if (chat or len(stated) == 1) and relation in QUESTIONS:
            question = draw.choice(QUESTIONS[relation])
            rephrasing = self.asked(question.format(subject), first.format(subject))
            if draw.random() < 0.25:
                probe = self.asked(question.format(other["subject"]), first.format(other["subject"]))
        elif chat or len(stated) == 1:
            rephrasing = self.asked(f"What do you know about {subject}?", first.format(subject))
        return {
            "prompt": first.format(subject),
            "target": target,
            "subject": subject,
            "rephrasings": [rephrasing],
            "locality": [{"prompt": probe}],
        }

    def counterfact(self, record: Record, draw: random.Random) -> Record:
        """A record of CounterFact; a quarter asked for in chat in place of its rephrasing."""
        made = {name: record[name] for name in ("prompt", "target", "subject", "rephrasings", "locality")}
        if draw.random() < 0.25:
            question = f"What do you know about {record['subject']}?"
            made["rephrasings"] = [self.asked(question, record["prompt"])]
        return made


def make(
    maker: Maker,
    counterfact: Sequence[Record],
    held_out: int,
    limit: int | None,
    seed: int,
    trained_on: Sequence[Record] = (),
) -> dict[str, list[Record]]:
    """The three lists of facts, by name.

    Args:
        maker: with ParaRel's facts.
        counterfact: its records.
        held_out: facts of each list that is held out.
        limit: facts to train on at most, as many of either source as its share of all.
        seed: of all draws.
        trained_on: facts whose subjects are not held out, since editors have seen them.
    """
    draw = random.Random(seed)
    known_already = {normalise(record["subject"]) for record in trained_on}
    known = [fact for r, facts in sorted(maker.by_relation.items()) for fact in facts]
    draw.shuffle(known)
    unseen = [fact for fact in known if fact["relation"] in HELD_OUT_RELATIONS]
    seen = [fact for fact in known if fact["relation"] not in HELD_OUT_RELATIONS]
    lists = {
        name: [fact for fact in _once(facts) if normalise(fact["subject"]) not in known_already][:held_out]
        for name, facts in (("subjects", seen), ("relations", unseen))
    }
    kept_back = {normalise(fact["subject"]) for facts in lists.values() for fact in facts}
    rest = [fact for fact in seen if normalise(fact["subject"]) not in kept_back]
    records = [r for r in counterfact if normalise(r["subject"]) not in kept_back]
    train = [maker.pararel(f, draw, chat=i % 2 == 0, true=i % 4 < 2) for i, f in enumerate(rest)]
    train += [maker.counterfact(record, draw) for record in records]
    draw.shuffle(train)
    return {
        "train": train[:limit],
        **{
            name: [maker.pararel(fact, draw, chat=i % 2 == 0, true=False) for i, fact in enumerate(facts)]
            for name, facts in lists.items()
        },
    }


def _once(facts: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """The first fact of each subject."""
    return list({normalise(fact["subject"]): fact for fact in reversed(facts)}.values())[::-1]


def _lines(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    """Write the lists as JSON lines."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pararel", type=Path, required=True, help="folder with facts.jsonl, patterns.jsonl")
    parser.add_argument("--counterfact", type=Path, required=True, help="in this project's form")
    parser.add_argument("--model", required=True, help="folder of the model whose chat template is used")
    parser.add_argument("--out", type=Path, required=True, help="folder of the lists")
    parser.add_argument("--held-out", type=int, default=512, help="facts of each list that is held out")
    parser.add_argument("--limit", type=int, help="facts to train on at most")
    parser.add_argument("--trained-on", type=Path, help="a train.jsonl, of which no subject is held out")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    patterns = {line["relation"]: line["patterns"] for line in _lines(given.pararel / "patterns.jsonl")}
    maker = Maker(_lines(given.pararel / "facts.jsonl"), patterns, load_tokenizer(given.model))
    given.out.mkdir(parents=True, exist_ok=True)
    trained_on = _lines(given.trained_on) if given.trained_on else []
    made = make(maker, _lines(given.counterfact), given.held_out, given.limit, given.seed, trained_on)
    for name, facts in made.items():
        text = "".join(json.dumps(fact, ensure_ascii=False) + "\n" for fact in facts)
        (given.out / f"{name}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
