"""Verification: what a version really answers, measured on the model, by fact and as a whole."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from malmen_core.editing.gauss_newton import Progress
from malmen_core.editing.subjects import subject_of
from malmen_core.facts import Fact, LocalityPrompt
from malmen_core.generation.chat import chat_answers, holds
from malmen_core.generation.greedy import greedy_answers
from malmen_core.models.base import BaseModel
from malmen_core.models.batching import AnswerScores, teacher_forced
from malmen_core.models.overlay import Version, intercepting
from malmen_core.models.tokenization import Encoded, encode_prompts, locate_subject, subject_last_token
from malmen_core.resources import canary_prompts, control_text, entity_names

CANARY_TOKENS = 8
SHORT_ANSWER = 3
"""Tokens of the answer to a locality prompt that are compared."""
BEHIND_TARGET = 8
"""Tokens behind the target within which a sentence must end to be an exact answer."""
BESIDE = 4
"""Other names that are asked in the place of a subject that begins its prompt."""
SENTENCE_ENDS = re.compile(r"[.!?。！？]|\n")


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
    prompts = canary_prompts()
    with intercepting(None):
        answers = greedy_answers(
            base, encode_prompts(base.tokenizer, prompts), [CANARY_TOKENS] * len(prompts)
        )
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
    steps = _Steps(progress, 6)
    prompts = [base.encode(f.prompt, f.target, None, f.joiner) for f in facts]
    rephrasings = [[base.encode(r, f.target, None, f.joiner) for r in f.rephrasings] for f in facts]
    asked = [*prompts, *(each for group in rephrasings for each in group)]
    with intercepting(None):
        firsts = [int(score.argmax_A[0]) for score in teacher_forced(base, asked)]
    steps.done()
    with version.active():
        scores = teacher_forced(base, asked)
        steps.done()
        generated = _generate(base, facts, prompts)
        steps.done()
        chats = chat_answers(base, facts)
    steps.done()
    beside = [_in_its_place(base, fact) for fact in facts]
    probes = [*(fact.locality for fact in facts), *beside]
    kept, unchanged = _locality(base, version, probes)
    steps.done()
    ratio, agreement = (None, None) if canaries is None else _canaries(base, version, canaries)
    steps.done()
    reworded = _unflatten(list(zip(scores[len(facts) :], firsts[len(facts) :], strict=True)), rephrasings)
    results = []
    for i, fact in enumerate(facts):
        own = [_share(score) for score, _ in reworded[i]]
        same = [float(first == firsts[i]) for _, first in reworded[i]]
        text = generated[i]
        results.append(
            {
                "edit_success": _share(scores[i]),
                "generation_success": base.task.begins_with(text, fact.target),
                "exact_success": base.task.is_exactly(text, fact.target),
                "generated": text.replace("\0", "\ufffd"),  # which databases do not hold
                "target_probability": math.exp(-float(_answered(scores[i], scores[i].nll_A).sum())),
                "chat": chats[i],
                "chat_success": None if (answer := chats[i]) is None else holds(answer, fact.target),
                "rephrasings": own,
                "generalisation": _mean(own),
                "own_agreement": _mean(same),
                "locality_prompts": kept[i],
                "locality": _mean(kept[i]),
                "neighbours_unchanged": _mean(unchanged[i] + unchanged[len(facts) + i]),
                "unchanged_prompts": unchanged[i],
                "in_its_place": _by_prompt(beside[i], unchanged[len(facts) + i]),
            }
        )
    summary = {**summarise(results), "perplexity_ratio": ratio, "canary_agreement": agreement}
    return Report(summary, tuple(results))


class _Steps:
    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.count = progress, total, 0

    def done(self) -> None:
        self.count += 1
        if self.progress is not None:
            self.progress("verifying", self.count, self.total)


def summarise(results: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Measures of some facts together, from the result of each."""
    return {
        "edit_success": _mean([r["edit_success"] for r in results]),
        "generation_success": _mean([float(r["generation_success"]) for r in results]),
        "exact_success": _mean([float(r["exact_success"]) for r in results]),
        "chat_success": _mean([float(r["chat_success"]) for r in results if r["chat_success"] is not None]),
        "generalisation": _mean([share for r in results for share in r["rephrasings"]]),
        "own_agreement": _mean([r["own_agreement"] for r in results if r["own_agreement"] is not None]),
        "locality": _mean([share for r in results for share in r["locality_prompts"]]),
        "neighbours_unchanged": _mean(
            [same for r in results for same in (*r["unchanged_prompts"], *r["in_its_place"].values())]
        ),
    }


def _generate(base: BaseModel, facts: Sequence[Fact], prompts: Sequence[Encoded]) -> list[str]:
    """Greedy answers to the facts' prompts, as far as the end of the sentence behind the target.

    A target with a special token is compared with what it is written with; those of other answers are dropped.
    """
    lengths = [len(each.answer) + BEHIND_TARGET for each in prompts]
    special = set(base.tokenizer.all_special_ids) if base.task.reads_text else set()

    def told_enough(number: int, ids: list[int]) -> bool:
        behind = ids[len(prompts[number].answer) :]
        return bool(behind) and SENTENCE_ENDS.search(base.task.text(base.tokenizer, behind)) is not None

    asked = [each.ids[: each.answer_start] for each in prompts]
    answers = greedy_answers(base, asked, lengths, told_enough if base.task.reads_text else None)
    texts = []
    for fact, prompt, answer in zip(facts, prompts, answers, strict=True):
        wanted, given = list(prompt.answer), answer[: len(prompt.answer)]
        if given == wanted and special & set(wanted):
            texts.append(fact.target + base.task.text(base.tokenizer, answer[len(wanted) :]))
        else:
            texts.append(base.task.text(base.tokenizer, answer))
    return texts


def _in_its_place(base: BaseModel, fact: Fact) -> tuple[LocalityPrompt, ...]:
    """A fact's prompt about other names, where its subject is the first token.

    What a model reads first says little of itself to the tokens behind it, so an edit there may answer for any
    name: "Apple is headquartered in" also for Microsoft. So others are asked without being given.
    """
    subject = subject_of(fact).text
    if subject is None or subject_last_token(base.tokenizer, fact.prompt, subject) != 0:
        return ()
    span = locate_subject(fact.prompt, subject)
    assert span is not None
    names = random.Random(fact.prompt).sample(entity_names(), BESIDE)
    texts = [fact.prompt[: span[0]] + name.split()[0] + fact.prompt[span[1] :] for name in names]
    return tuple(map(LocalityPrompt, texts))


def _by_prompt(probes: Sequence[LocalityPrompt], values: Sequence[float]) -> dict[str, float]:
    return {probe.prompt: value for probe, value in zip(probes, values, strict=True)}


def _locality(
    base: BaseModel, version: Version, probes: Sequence[Sequence[LocalityPrompt]]
) -> tuple[list[list[float]], list[list[float]]]:
    """Of each fact's prompts: share of answer tokens whose argmax is the base's; unchanged answers.

    The edited model writes the base's answer exactly if each of its tokens is the argmax behind those before
    it, so one teacher-forced pass over the base's answers tells.
    """
    flat = [probe for group in probes for probe in group]
    with intercepting(None):
        own = _own_answers(base, [probe.prompt for probe in flat])
        compared = [_given(base, probe, answer) for probe, answer in zip(flat, own, strict=True)]
        given = [i for i, (a, b) in enumerate(zip(own, compared, strict=True)) if a != b]
        if base.dtype in (torch.float32, torch.float64):
            before = [torch.tensor(each.answer) for each in own]
        else:  # what is batched together changes the argmax, so what was written is read back
            before = [score.argmax_A for score in teacher_forced(base, own)]
        before += [score.argmax_A for score in teacher_forced(base, [compared[i] for i in given])]
    with version.active():
        after = [score.argmax_A for score in teacher_forced(base, [*own, *(compared[i] for i in given)])]
    stops = torch.tensor(sorted(base.stop_ids), dtype=torch.int64)
    same = [
        ((a == b) | torch.isin(a, stops) & torch.isin(b, stops)).double()
        for a, b in zip(after, before, strict=True)
    ]
    shares = [float(each.mean()) for each in same[: len(own)]]
    for number, i in enumerate(given):
        shares[i] = float(same[len(own) + number].mean())
    unchanged = [float(each.all()) for each in same[: len(own)]]
    return _unflatten(shares, probes), _unflatten(unchanged, probes)


def _own_answers(base: BaseModel, prompts: Sequence[str]) -> list[Encoded]:
    """Prompts with the base's greedy short answer; one that ends by itself keeps a token for its end."""
    encoded = encode_prompts(base.tokenizer, prompts)
    answers = greedy_answers(base, encoded, [SHORT_ANSWER] * len(prompts))
    end = sorted(base.stop_ids)[:1]
    return [
        Encoded((*ids, *answer, *(end if len(answer) < SHORT_ANSWER else [])), len(ids))
        for ids, answer in zip(encoded, answers, strict=True)
    ]


def _given(base: BaseModel, probe: LocalityPrompt, own: Encoded) -> Encoded:
    """A locality prompt with the answer that is compared: the one given, else the base's own."""
    if probe.target is None:
        return own
    return base.encode(probe.prompt, probe.target).opened()


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
    texts = encode_prompts(base.tokenizer, control_text())
    cut = [tuple(ids[: base.info.context_length]) for ids in texts]
    return [Encoded(ids, 1) for ids in cut if len(ids) > 1]


def _answered(scores: AnswerScores, values_A: Tensor) -> Tensor:
    """Values of the answer's own tokens, without that of its end."""
    return values_A[: len(values_A) - int(scores.closed)]


def _share(scores: AnswerScores) -> float:
    """Share of the answer's tokens that are the argmax."""
    return float((_answered(scores, scores.margin_A) > 0).double().mean())


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _unflatten(flat: Sequence[Any], like: Sequence[Sequence[Any]]) -> list[list[Any]]:
    items = iter(flat)
    return [[next(items) for _ in group] for group in like]
