"""Verification: what a version really answers, measured on the model, by fact and as a whole."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from malmen_core.editing.covariance import packaged
from malmen_core.editing.refinement import Progress
from malmen_core.facts import Fact
from malmen_core.generation.greedy import greedy_tokens, probe_answers
from malmen_core.models.base import BaseModel
from malmen_core.models.batching import AnswerScores, teacher_forced
from malmen_core.models.overlay import Version, intercepting
from malmen_core.models.tokenization import Encoded, encode_prompts

CANARY_TOKENS = 8


@dataclass(frozen=True)
class CanaryRecord:
    """What the base model does on text that no edit is about; recorded when it is registered.

    Attributes:
        control_nll: mean negative log-likelihood of a control token, in nats.
        control_tokens: how many were scored.
        continuations: greedy continuation (token ids) by canary prompt.
        choices: the base's argmax at each of their tokens, under teacher forcing; in half precision, others
            than those that it wrote with a cache.
    """

    control_nll: float
    control_tokens: int
    continuations: Mapping[str, tuple[int, ...]]
    choices: Mapping[str, tuple[int, ...]]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "control_nll": self.control_nll,
            "control_tokens": self.control_tokens,
            "continuations": {prompt: list(ids) for prompt, ids in self.continuations.items()},
            "choices": {prompt: list(ids) for prompt, ids in self.choices.items()},
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> CanaryRecord:
        """Read what `to_json` gave; the first records had no choices, and compared with what was written."""
        written = record["continuations"]
        continuations, choices = (
            {prompt: tuple(ids) for prompt, ids in each.items()}
            for each in (written, record.get("choices", written))
        )
        return cls(record["control_nll"], record["control_tokens"], continuations, choices)


@dataclass(frozen=True)
class Report:
    """The measures of API.md; shares lie in [0, 1], and None stands where there was nothing to measure.

    Attributes:
        summary: of the whole set.
        facts: one JSON object a fact, in order.
    """

    summary: Mapping[str, float | None]
    facts: tuple[Mapping[str, Any], ...]


def record_canaries(base: BaseModel) -> CanaryRecord:
    """Run the packaged control text and canary prompts on the base."""
    prompts = json.loads(packaged("canaries.json"))["prompts"]
    with intercepting(None):
        answers = greedy_tokens(base, prompts, [CANARY_TOKENS] * len(prompts))
        continuations = {p: tuple(a) for p, a in zip(prompts, answers, strict=True)}
        nll, tokens, choices = _read_back(base, continuations)
    return CanaryRecord(nll, tokens, continuations, choices)


def verify(
    base: BaseModel,
    version: Version,
    facts: Sequence[Fact],
    canaries: CanaryRecord | None,
    progress: Progress | None = None,
) -> Report:
    """Measure a version on facts, on their rephrasings and locality prompts, and on the canaries.

    Args:
        base: the immutable base.
        version: the overlay to measure.
        facts: with what to measure on.
        canaries: recorded on the base; None to leave other text unmeasured, most of the time of few facts.
        progress: told ``("verifying", done, total)``; may raise to abort.
    """
    steps = _Steps(progress, 5)
    edits = [base.encode(f.prompt, f.target) for f in facts]
    rephrasings = [[base.encode(r, f.target) for r in f.rephrasings] for f in facts]
    with version.active():
        edit_scores = teacher_forced(base, edits)
        steps.done()
        generated = greedy_tokens(base, [f.prompt for f in facts], [len(e.answer) + 1 for e in edits])
        steps.done()
        rephrasing_scores = _unflatten(
            teacher_forced(base, [e for group in rephrasings for e in group]), rephrasings
        )
    steps.done()
    kept = _locality(base, version, facts)
    steps.done()
    ratio, agreement = (None, None) if canaries is None else _canaries(base, version, canaries)
    steps.done()
    results = [
        _fact_result(base, fact, edit_scores[i], generated[i], rephrasing_scores[i], kept[i])
        for i, fact in enumerate(facts)
    ]
    return Report(
        {**summarise(results), "perplexity_ratio": ratio, "canary_agreement": agreement}, tuple(results)
    )


class _Steps:
    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.count = progress, total, 0

    def done(self) -> None:
        self.count += 1
        if self.progress is not None:
            self.progress("verifying", self.count, self.total)


def _fact_result(
    base: BaseModel,
    fact: Fact,
    scores: AnswerScores,
    generated: Sequence[int],
    rephrasings: Sequence[AnswerScores],
    kept: Sequence[float],
) -> dict[str, Any]:
    text = base.task.text(base.tokenizer, generated)
    return {
        "edit_success": _share(scores),
        "generation_success": base.task.agrees(text, fact.target),
        "generated": text.replace("\0", "\ufffd"),  # which databases do not hold
        "target_probability": math.exp(-float(scores.nll_A.sum())),
        "rephrasings": [_share(s) for s in rephrasings],
        "generalisation": _mean([_share(s) for s in rephrasings]),
        "locality_prompts": list(kept),
        "locality": _mean(kept),
    }


def summarise(results: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Measures of some facts together, from the result of each."""
    return {
        "edit_success": _mean([r["edit_success"] for r in results]),
        "generation_success": _mean([float(r["generation_success"]) for r in results]),
        "generalisation": _mean([share for r in results for share in r["rephrasings"]]),
        "locality": _mean([share for r in results for share in r["locality_prompts"]]),
    }


def _locality(base: BaseModel, version: Version, facts: Sequence[Fact]) -> list[list[float]]:
    """Share of each locality prompt's answer tokens whose argmax is the base model's, by fact."""
    probes = [fact.locality for fact in facts]
    with intercepting(None):
        sequences = probe_answers(base, [probe for group in probes for probe in group])
        before = teacher_forced(base, sequences)
    with version.active():
        after = teacher_forced(base, sequences)
    same = [float((a.argmax_A == b.argmax_A).double().mean()) for a, b in zip(after, before, strict=True)]
    return _unflatten(same, probes)


def _canaries(base: BaseModel, version: Version, canaries: CanaryRecord) -> tuple[float, float | None]:
    """Perplexity ratio on the control text, and the share of canary tokens whose argmax is the base's."""
    with version.active():
        nll, _, choices = _read_back(base, canaries.continuations)
    same = [
        sum(a == b for a, b in zip(own, canaries.choices[prompt], strict=True)) / len(own)
        for prompt, own in choices.items()
    ]
    return math.exp(nll - canaries.control_nll), _mean(same)


def _read_back(
    base: BaseModel, continuations: Mapping[str, tuple[int, ...]]
) -> tuple[float, int, dict[str, tuple[int, ...]]]:
    """Mean loss of a control token, how many were scored, and the argmaxes along the base's continuations.

    Control tokens are all of the packaged control text but each part's first; or, for a model that does not
    give every text a likelihood, what the base itself answered to the canary prompts. Where it answered with
    nothing there are no argmaxes.
    """
    answers = {prompt: answer for prompt, answer in continuations.items() if answer}
    prompts = zip(encode_prompts(base.tokenizer, list(answers)), answers.values(), strict=True)
    answered = teacher_forced(base, [Encoded((*ids, *answer), len(ids)) for ids, answer in prompts])
    control = teacher_forced(base, _control_text(base)) if base.task.reads_text else answered
    count = sum(len(scores.nll_A) for scores in control)
    nll = sum(float(scores.nll_A.double().sum()) for scores in control) / max(count, 1)
    choices = [tuple(scores.argmax_A.tolist()) for scores in answered]
    return nll, count, dict(zip(answers, choices, strict=True))


def _control_text(base: BaseModel) -> list[Encoded]:
    texts = encode_prompts(base.tokenizer, json.loads(packaged("canaries.json"))["control_text"])
    cut = [tuple(ids[: base.info.context_length]) for ids in texts]
    return [Encoded(ids, 1) for ids in cut if len(ids) > 1]


def _share(scores: AnswerScores) -> float:
    return float((scores.margin_A > 0).double().mean())


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _unflatten(flat: Sequence[Any], like: Sequence[Sequence[Any]]) -> list[list[Any]]:
    items = iter(flat)
    return [[next(items) for _ in group] for group in like]
