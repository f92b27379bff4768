"""Makes a taught model: `python -m benchmarks.taught.make gpt2 --pararel DIR --out DIR`.

Into the folder go ``model`` (a checkpoint like any other), ``reported.jsonl`` and ``tuning.jsonl`` (facts to
edit, in the API's form), ``training.jsonl`` (to train editors on), ``field.jsonl`` (others that it was taught,
for the prior), and ``taught.json``: how it was taught, and what it knows of the facts to edit in their own
wording and in their rephrasings. A model that is there already is not taught again, and a course that was
broken off is gone on with.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.taught.pupils import PUPILS
from benchmarks.taught.questions import Split, split
from benchmarks.taught.teach import Course, knowledge, teach
from malmen_core.models.base import BaseModel

CARD = "taught.json"
PARTS = ("reported", "tuning")
TRAINING, FIELD = "training", "field"


def make(
    name: str,
    pararel: Path,
    out: Path,
    *,
    seed: int = 0,
    subjects: int | None = None,
    epochs: int | None = None,
    weights: Path | None = None,
) -> dict[str, Any]:
    """Teach a model, unless it has been.

    Args:
        name: a key of `PUPILS`.
        pararel: folder of ParaRel.
        out: where everything goes.
        seed: of weights, draws and order.
        subjects: in place of the pupil's number.
        epochs: likewise.
        weights: folder of the real weights; None to fetch them.

    Returns:
        The card.
    """
    pupil = PUPILS[name]
    course = Course(epochs or pupil.epochs, pupil.rate, seed=seed)
    about = {"pupil": name, "subjects": subjects or pupil.subjects, **asdict(course)}
    out.mkdir(parents=True, exist_ok=True)
    parts = split(pararel, pupil.form, subjects or pupil.subjects, seed)
    for part in (*PARTS, TRAINING, FIELD):
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in getattr(parts, part)]
        (out / f"{part}.jsonl").write_text("".join(lines), "utf-8")
    card = _read_card(out)
    if card is not None and card["course"] == about:
        return card
    with tempfile.TemporaryDirectory() as scratch:
        torch.manual_seed(seed)
        pupil.begin(_texts(parts), Path(scratch), weights)
        seconds = teach(Path(scratch), parts.taught, course, out / "model", _say)
    base = BaseModel.load(str(out / "model"))
    card = {
        "course": about,
        "seconds": round(seconds, 1),
        "device": base.device.type,
        "parameters": sum(p.numel() for p in base.model.parameters()),
        "digest": base.info.digest,
        "knows": {part: _knows(base, getattr(parts, part)) for part in PARTS},
    }
    (out / CARD).write_text(json.dumps(card, indent=1) + "\n")
    return card


def _read_card(out: Path) -> dict[str, Any] | None:
    if not (out / CARD).exists():
        return None
    card: dict[str, Any] = json.loads((out / CARD).read_text())
    return card


def _texts(parts: Split) -> list[str]:
    return [f"{text} {q.answer}" for q in parts.taught for text in q.phrasings]


def _knows(base: BaseModel, records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What share of the taught answers comes, behind prompts, rephrasings and locality prompts."""
    asked = {
        "prompts": [(r["prompt"], r["true_target"]) for r in records],
        "rephrasings": [(text, r["true_target"]) for r in records for text in r["rephrasings"]],
        "locality": [(probe["prompt"], probe["target"]) for r in records for probe in r["locality"]],
    }
    return {name: round(knowledge(base, pairs), 4) for name, pairs in asked.items()}


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def main() -> None:
    """Read the arguments, make, print the card."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=sorted(PUPILS))
    parser.add_argument("--pararel", required=True, type=Path, help="folder with facts.jsonl, patterns.jsonl")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--subjects", type=int, help="in place of the model's own number")
    parser.add_argument("--epochs", type=int, help="likewise")
    parser.add_argument("--weights", type=Path, help="folder of BERT's real weights [default: fetched]")
    print(json.dumps(make(**vars(parser.parse_args())), indent=1))


if __name__ == "__main__":
    main()
