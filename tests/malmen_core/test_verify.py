"""Verification: figures that can be checked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from malmen_core.editing.edit import compute_statistics, solve
from malmen_core.evaluation.verify import CanaryRecord, record_canaries, verify
from malmen_core.facts import Fact, Probe
from malmen_core.generation.greedy import greedy_tokens
from malmen_core.models.base import BaseModel
from malmen_core.models.delta import Change, Delta
from malmen_core.models.tokenization import encode
from tests.malmen_core.support import FACTS, assert_untouched, snapshot, tiny_base, tiny_editor
from tests.malmen_core.test_overlay import delta


@pytest.fixture(scope="module")
def canaries(llama: BaseModel) -> CanaryRecord:
    return record_canaries(llama)


def test_the_base_is_as_it_was(llama: BaseModel, canaries: CanaryRecord) -> None:
    before = snapshot(llama)
    report = verify(llama, llama.version(Delta.empty()), FACTS, canaries)
    assert report.summary["locality"] == 1
    assert report.summary["perplexity_ratio"] == pytest.approx(1, abs=1e-12)
    assert report.summary["canary_agreement"] == 1
    assert_untouched(llama, before)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_base_in_half_precision_agrees_with_itself(architecture: str) -> None:
    """What it writes with a cache is not, token for token, what it chooses when it reads that at once."""
    base = tiny_base(architecture, dtype=torch.bfloat16)
    canaries = record_canaries(base)
    assert canaries.choices != canaries.continuations
    report = verify(base, base.version(Delta.empty()), FACTS[:1], CanaryRecord.from_json(canaries.to_json()))
    assert report.summary["canary_agreement"] == 1
    assert report.summary["perplexity_ratio"] == 1


def test_an_exact_base_chooses_what_it_writes(llama: BaseModel, canaries: CanaryRecord) -> None:
    assert canaries.choices == canaries.continuations
    first = {name: value for name, value in canaries.to_json().items() if name != "choices"}
    assert CanaryRecord.from_json(first) == canaries


def by_hand(base: BaseModel, prompt: str, target: str) -> tuple[float, float]:
    """Share of answer tokens that are the argmax, and the probability of all of them."""
    encoded = encode(base.tokenizer, prompt, target)
    with torch.inference_mode():
        log_p = base.model(input_ids=torch.tensor([encoded.ids])).logits[0].log_softmax(-1)
    hits, total = 0, 0.0
    for i, token in enumerate(encoded.answer):
        hits += int(log_p[encoded.answer_start - 1 + i].argmax()) == token
        total += float(log_p[encoded.answer_start - 1 + i, token])
    return hits / len(encoded.answer), math.exp(total)


@pytest.mark.parametrize("seed", [None, 7])
def test_success_is_the_share_of_argmax_tokens(
    llama: BaseModel, canaries: CanaryRecord, seed: int | None
) -> None:
    version = llama.version(Delta.empty() if seed is None else delta(llama, seed))
    greedy = greedy_tokens(llama, [FACTS[4].prompt], [3])[0]
    own = Fact(FACTS[4].prompt, llama.tokenizer.decode(greedy).strip() or "week")
    facts = (*FACTS, own)
    report = verify(llama, version, facts, canaries)
    shares = []
    with version.active():
        for fact, found in zip(facts, report.facts, strict=True):
            share, probability = by_hand(llama, fact.prompt, fact.target)
            assert found["edit_success"] == share
            assert found["target_probability"] == pytest.approx(probability, rel=1e-9)
            rephrased = [by_hand(llama, r, fact.target)[0] for r in fact.rephrasings]
            assert found["rephrasings"] == rephrased
            shares.append(share)
    assert report.summary["edit_success"] == pytest.approx(sum(shares) / len(shares))


def test_an_edited_version_succeeds(llama: BaseModel, canaries: CanaryRecord) -> None:
    editor = tiny_editor(llama, where="answer", rounds=40)
    version = llama.version(solve(editor, compute_statistics(llama, editor, FACTS)))
    told: list[tuple[str, int, int]] = []
    report = verify(llama, version, FACTS, canaries, progress=lambda *step: told.append(step))
    assert report.summary["edit_success"] == 1
    assert report.summary["generation_success"] == 1
    assert all(f["generated"].lstrip().startswith(t.target) for f, t in zip(report.facts, FACTS, strict=True))
    assert told == [("verifying", i, 5) for i in range(1, 6)]
    assert report.summary["perplexity_ratio"] != 1


def test_locality_compares_with_the_base_s_argmax(llama: BaseModel, canaries: CanaryRecord) -> None:
    version = llama.version(delta(llama, 3, size=0.2))
    facts = [
        Fact("The river", "Lima", locality=(Probe("Seven days make a", "week of days"), Probe("He plays")))
    ]
    report = verify(llama, version, facts, canaries)
    own = tuple(greedy_tokens(llama, ["He plays"], [3])[0])
    probes = [
        (encode(llama.tokenizer, "Seven days make a", "week of days").ids, 4),
        ((*llama.tokenizer("He plays")["input_ids"], *own), len(llama.tokenizer("He plays")["input_ids"])),
    ]
    start = encode(llama.tokenizer, "Seven days make a", "week of days").answer_start
    expected = []
    for (ids, _), first in zip(probes, (start, probes[1][1]), strict=True):
        with torch.inference_mode():
            before = llama.model(input_ids=torch.tensor([ids])).logits[0, first - 1 : -1].argmax(-1)
            with version.active():
                after = llama.model(input_ids=torch.tensor([ids])).logits[0, first - 1 : -1].argmax(-1)
        expected.append(float((before == after).double().mean()))
    assert report.facts[0]["locality_prompts"] == expected
    assert report.summary["locality"] == sum(expected) / 2 < 1


def test_what_was_not_asked_for_is_none(llama: BaseModel, canaries: CanaryRecord) -> None:
    report = verify(llama, llama.version(Delta.empty()), [Fact("The river", "Lima")], canaries)
    assert report.summary["generalisation"] is None
    assert report.summary["locality"] is None
    assert report.facts[0]["locality"] is None


def test_a_generated_nul_can_be_stored(
    llama: BaseModel, canaries: CanaryRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes are tokens, so a model may write one, and PostgreSQL holds none in its texts."""
    nul = llama.tokenizer("\0", add_special_tokens=False)["input_ids"]
    assert "\0" in llama.tokenizer.decode(nul)
    monkeypatch.setattr("malmen_core.evaluation.verify.greedy_tokens", lambda *_: [nul])
    report = verify(llama, llama.version(Delta.empty()), FACTS[:1], canaries)
    assert "\0" not in report.facts[0]["generated"]
    assert "\ufffd" in report.facts[0]["generated"]


def test_perplexity_sees_a_ruined_model(llama: BaseModel, canaries: CanaryRecord) -> None:
    """Negative control."""
    noise = {n: Change(dense_UV=3 * torch.randn(*m.shape)) for n, m in llama.modules.items()}
    report = verify(llama, llama.version(Delta(noise)), FACTS[:1], canaries)
    agreement, ratio = report.summary["canary_agreement"], report.summary["perplexity_ratio"]
    assert agreement is not None
    assert agreement < 0.9
    assert ratio is not None
    assert abs(ratio - 1) > 0.01


def test_canaries_survive_json_and_an_active_version(llama: BaseModel, canaries: CanaryRecord) -> None:
    assert CanaryRecord.from_json(canaries.to_json()) == canaries
    with llama.version(delta(llama, 3)).active():
        assert record_canaries(llama) == canaries


def test_an_abort_leaves_the_thread_on_the_base(llama: BaseModel, canaries: CanaryRecord) -> None:
    before, plain = snapshot(llama), llama.model(input_ids=torch.tensor([[1, 2]])).logits

    def abort(stage: str, done: int, total: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        verify(llama, llama.version(delta(llama, 3)), FACTS, canaries, progress=abort)
    assert torch.equal(llama.model(input_ids=torch.tensor([[1, 2]])).logits, plain)
    assert_untouched(llama, before)
