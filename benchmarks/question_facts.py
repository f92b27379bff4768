"""Questions in the style of zsRE, made from the facts of ParaRel: one to edit, two rephrasings, one probe.

    python -m benchmarks.question_facts --pararel DIR --limit 1000 > questions.jsonl

The target is the object that the fact has in ParaRel, which a small model mostly does not know. The locality
prompt is a question about another subject of another relation. Subjects do not repeat.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Any

QUESTIONS: dict[str, tuple[str, str, str]] = {
    "P17": ("Which country is {} in?", "In what country can one find {}?", "What country does {} lie in?"),
    "P19": ("Where was {} born?", "In which place was {} born?", "What is the birthplace of {}?"),
    "P20": ("Where did {} die?", "In which place did {} pass away?", "What was the place of death of {}?"),
    "P27": (
        "Which country is {} a citizen of?",
        "What is the citizenship of {}?",
        "Of which country does {} hold citizenship?",
    ),
    "P30": ("Which continent is {} on?", "On what continent is {} found?", "What is the continent of {}?"),
    "P36": (
        "What is the capital of {}?",
        "Which city is the capital of {}?",
        "What is the name of the capital of {}?",
    ),
    "P37": (
        "What is the official language of {}?",
        "Which language is official in {}?",
        "What language is used officially in {}?",
    ),
    "P101": (
        "What field does {} work in?",
        "In which field is {} active?",
        "What is the field of work of {}?",
    ),
    "P103": (
        "What is the native language of {}?",
        "What is the mother tongue of {}?",
        "Which language did {} grow up with?",
    ),
    "P106": (
        "What is the profession of {}?",
        "What does {} do for a living?",
        "What is the occupation of {}?",
    ),
    "P127": ("Who owns {}?", "Which company is the owner of {}?", "What is the owner of {}?"),
    "P136": ("What genre of music does {} play?", "Which genre is {} known for?", "What is the genre of {}?"),
    "P140": (
        "Which religion does {} follow?",
        "What is the religion of {}?",
        "What faith does {} belong to?",
    ),
    "P159": (
        "Where is the headquarters of {}?",
        "In which city is {} based?",
        "Which city houses the headquarters of {}?",
    ),
    "P176": ("Which company makes {}?", "Who is the manufacturer of {}?", "What company produces {}?"),
    "P178": ("Who developed {}?", "Which company developed {}?", "Who is the developer of {}?"),
    "P364": (
        "What is the original language of {}?",
        "In which language was {} made?",
        "Which language was {} first in?",
    ),
    "P407": (
        "What language is {} written in?",
        "In which language is {}?",
        "Which language was used for {}?",
    ),
    "P413": (
        "What position does {} play?",
        "Which position is {} known to play?",
        "In what position does {} play?",
    ),
    "P449": (
        "Which network first aired {}?",
        "On which channel was {} first shown?",
        "What network was {} first broadcast on?",
    ),
    "P495": (
        "Which country is {} from?",
        "In which country was {} created?",
        "What is the country of origin of {}?",
    ),
    "P740": (
        "Where was {} founded?",
        "In which city was {} formed?",
        "What is the place where {} was founded?",
    ),
    "P937": ("Where did {} work?", "In which city did {} work?", "What was the place of work of {}?"),
    "P1303": ("Which instrument does {} play?", "What instrument is {} known for?", "What does {} play?"),
}


def make(facts: list[dict[str, str]], limit: int, seed: int) -> list[dict[str, Any]]:
    """Draw facts with questions, in this project's form.

    Args:
        facts: ParaRel's: relation, subject, object.
        limit: how many at most.
        seed: of the draw.
    """
    draw = random.Random(seed)
    known = [fact for fact in facts if fact["relation"] in QUESTIONS]
    draw.shuffle(known)
    made: list[dict[str, Any]] = []
    seen: set[str] = set()
    for fact in known:
        if len(made) == limit:
            break
        if fact["subject"] in seen:
            continue
        seen.add(fact["subject"])
        asked, *others = (question.format(fact["subject"]) for question in QUESTIONS[fact["relation"]])
        other = draw.choice(known)
        while other["relation"] == fact["relation"] or other["subject"] == fact["subject"]:
            other = draw.choice(known)
        probe = QUESTIONS[other["relation"]][0].format(other["subject"])
        made.append(
            {
                "prompt": asked,
                "target": fact["object"],
                "subject": fact["subject"],
                "rephrasings": others,
                "locality": [{"prompt": probe}],
            }
        )
    return made


def main() -> None:
    """Write the facts to standard output as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pararel", type=Path, required=True, help="folder with facts.jsonl")
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    lines = (arguments.pararel / "facts.jsonl").read_text(encoding="utf-8").splitlines()
    for fact in make([json.loads(line) for line in lines], arguments.limit, arguments.seed):
        sys.stdout.write(json.dumps(fact, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
