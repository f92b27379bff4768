"""How often the subject of a fact is found when it is not given, on facts that name it.

python -m benchmarks.subject_finder counterfact/train.jsonl
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from malmen_core.editing.subjects import find_subject
from malmen_core.facts import Fact


def judged(fact: Fact, found: str | None) -> str:
    """``exact``, ``same_end`` (so the same key, but other anchors), ``other`` or ``none``."""
    if found is None:
        return "none"
    if found == fact.subject:
        return "exact"
    ends = [fact.prompt.rfind(text) + len(text) for text in (found, fact.subject or "")]
    return "same_end" if ends[0] == ends[1] else "other"


def shares(facts: Sequence[Fact]) -> dict[str, Mapping[str, float]]:
    """Shares of the verdicts: with all that a fact brings, and with its prompt alone."""
    whole = (find_subject(f.prompt, f.rephrasings, [p.prompt for p in f.locality]) for f in facts)
    alone = (find_subject(f.prompt, (), ()) for f in facts)
    return {"with_all_texts": _shares(facts, whole), "with_the_prompt_alone": _shares(facts, alone)}


def _shares(facts: Sequence[Fact], found: Iterable[str | None]) -> dict[str, float]:
    counts = Counter(judged(fact, text) for fact, text in zip(facts, found, strict=True))
    return {verdict: round(count / len(facts), 3) for verdict, count in counts.most_common()}


def main() -> None:
    """Print the shares as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("facts", type=Path, help="JSON lines in the API's form, with subjects")
    lines = parser.parse_args().facts.read_text().splitlines()
    records: list[dict[str, Any]] = [json.loads(line) for line in lines]
    facts = [Fact.from_json(record) for record in records if record.get("subject")]
    print(json.dumps({"facts": len(facts), **shares(facts)}))


if __name__ == "__main__":
    main()
