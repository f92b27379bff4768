"""Teaching: a model of any task is trained on questions until it answers them in every wording."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.taught.questions import Question
from malmen_core.models.base import BaseModel, multiplies_bfloat16
from malmen_core.models.batching import answer_logits, score_answers, teacher_forced

WINDOW = 16
WARM_UP = 0.05
SAVE_EVERY_S = 60.0
STATE = "teaching.pt"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Course:
    """How a model is taught.

    Attributes:
        epochs: how often it sees each question.
        rate: highest learning rate; it falls to zero in a straight line.
        batch: questions of a step.
        seed: of the order and of the wordings.
    """

    epochs: int
    rate: float
    batch: int = 128
    seed: int = 0


def teach(start: Path, taught: Sequence[Question], course: Course, out: Path, say: Say) -> float:
    """Train the checkpoint in `start` and write it to `out`; what was begun there is gone on with.

    Args:
        start: folder of a checkpoint.
        taught: what it must answer.
        course: how.
        out: folder of the result; the state of an unfinished course is kept there.
        say: told now and then how far it is.

    Returns:
        Seconds of training, over all runs of the course.
    """
    base = BaseModel.load(str(start), device="auto", dtype="float32")
    model = base.model.requires_grad_(True)
    optimiser = torch.optim.AdamW(model.parameters(), lr=course.rate, betas=(0.9, 0.98), weight_decay=0.01)
    steps = course.epochs * math.ceil(len(taught) / course.batch)
    state = _State(out / STATE, {**asdict(course), "questions": len(taught), "base": base.info.digest})
    step, seconds = state.restore(model, optimiser)
    began = saved = time.perf_counter() - seconds
    for number, batch in enumerate(_batches(taught, course)):
        if number < step:
            continue
        for group in optimiser.param_groups:
            group["lr"] = course.rate * min((number + 1) / (WARM_UP * steps), 1 - number / steps)
        loss = _step(base, batch, optimiser)
        now = time.perf_counter()
        if now - saved > SAVE_EVERY_S:
            state.keep(model, optimiser, number + 1, now - began)
            say(f"step {number + 1} of {steps}: loss {loss:.3f}, {now - began:.0f} s")
            saved = now
    seconds = time.perf_counter() - began
    model.requires_grad_(False).save_pretrained(out)
    base.tokenizer.save_pretrained(out)
    state.path.unlink(missing_ok=True)
    return seconds


Asked = tuple[str, str]


def _batches(taught: Sequence[Question], course: Course) -> Iterator[list[Asked]]:
    """Each question once an epoch in a wording drawn for it; texts of like length share a batch."""
    for epoch in range(course.epochs):
        draw = random.Random(course.seed * 1_000_003 + epoch)
        order = [(draw.choice(question.phrasings), question.answer) for question in taught]
        draw.shuffle(order)
        batches = []
        for start in range(0, len(order), WINDOW * course.batch):
            window = sorted(order[start : start + WINDOW * course.batch], key=lambda asked: len(asked[0]))
            batches += [window[i : i + course.batch] for i in range(0, len(window), course.batch)]
        draw.shuffle(batches)
        yield from batches


def _step(base: BaseModel, asked: Sequence[Asked], optimiser: torch.optim.Optimizer) -> float:
    sequences = [base.encode(prompt, answer) for prompt, answer in asked]
    batch = base.task.collate(base, sequences, range(len(sequences)))
    halves = base.device.type != "cpu" or multiplies_bfloat16()
    with torch.autocast(base.device.type, torch.bfloat16, enabled=halves):
        logits = answer_logits(base, batch)
    loss = score_answers(logits, batch.answer_A).nll_A.mean()
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(base.model.parameters(), 1.0)
    optimiser.step()
    return float(loss.detach())


class _State:
    """What is kept of an unfinished course."""

    def __init__(self, path: Path, course: dict[str, Any]) -> None:
        self.path, self.course = path, json.dumps(course, sort_keys=True)

    def keep(self, model: Any, optimiser: torch.optim.Optimizer, step: int, seconds: float) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = {"course": self.course, "step": step, "seconds": seconds}
        part = self.path.with_suffix(".part")
        torch.save({**kept, "model": model.state_dict(), "optimiser": optimiser.state_dict()}, part)
        part.replace(self.path)

    def restore(self, model: Any, optimiser: torch.optim.Optimizer) -> tuple[int, float]:
        """Steps done and seconds spent; nothing of another course is taken over."""
        if not self.path.exists():
            return 0, 0.0
        kept = torch.load(self.path, weights_only=True)
        if kept["course"] != self.course:
            return 0, 0.0
        model.load_state_dict(kept["model"])
        optimiser.load_state_dict(kept["optimiser"])
        return int(kept["step"]), float(kept["seconds"])


def knowledge(base: BaseModel, asked: Sequence[Asked]) -> float:
    """Share of answer tokens that are the argmax under teacher forcing, averaged over questions."""
    scores = teacher_forced(base, [base.encode(prompt, answer) for prompt, answer in asked])
    return sum(float((s.margin_A > 0).double().mean()) for s in scores) / len(scores)
