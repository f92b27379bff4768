"""Verification: figures that can be checked by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from malmen_core.editing.edit import solve
from malmen_core.evaluation.verify import CanaryRecord, record_canaries, verify
from malmen_core.facts import Fact, LocalityPrompt
from malmen_core.generation.greedy import greedy_answers
from malmen_core.models.base import BaseModel
from malmen_core.models.batching import AnswerScores, teacher_forced
from malmen_core.models.delta import Change, Delta
from malmen_core.models.overlay import Version
from malmen_core.models.tokenization import Encoded, encode, encode_prompt, encode_prompts
from tests.malmen_core.models.test_overlay import delta
from tests.malmen_core.support import (
    CHAT,
    FACTS,
    assert_untouched,
    louder,
    snapshot,
    statistics_of,
    tiny_base,
    tiny_editor,
    wrap,
)
from tests.tiny import tiny_llama


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
    """What it writes with a cache need not be, token for token, what it chooses when it reads that at once."""
    base = tiny_base(architecture, dtype=torch.bfloat16)
    canaries = record_canaries(base)
    first = next(iter(canaries.continuations))
    written = (*canaries.continuations[first][:-1], 300)  # as a cache in half precision may have it
    other = replace(canaries, continuations={**canaries.continuations, first: written})
    again = replace(other, choices=reread(base, other))
    assert again.choices[first][-1] != 300
    report = verify(base, base.version(Delta.empty()), FACTS[:1], CanaryRecord.from_json(again.to_json()))
    assert report.summary["canary_agreement"] == 1
    assert report.summary["perplexity_ratio"] == 1


def reread(base: BaseModel, canaries: CanaryRecord) -> dict[str, tuple[int, ...]]:
    """What the base chooses along its continuations, read at once."""
    texts = {p: (*encode_prompt(base.tokenizer, p), *a) for p, a in canaries.continuations.items() if a}
    sequences = [Encoded(ids, len(ids) - len(canaries.continuations[p])) for p, ids in texts.items()]
    scores = teacher_forced(base, sequences)
    return {p: tuple(s.argmax_A.tolist()) for p, s in zip(texts, scores, strict=True)}


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
    greedy = greedy_answers(llama, [encode_prompt(llama.tokenizer, FACTS[4].prompt)], [3])[0]
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


def test_an_edited_version_succeeds(upper: BaseModel) -> None:
    canaries = record_canaries(upper)
    editor = tiny_editor(upper, where="answer", rounds=40)
    version = upper.version(solve(upper, editor, statistics_of(upper, editor, FACTS)))
    told: list[tuple[str, int, int]] = []
    report = verify(upper, version, FACTS, canaries, progress=lambda *step: told.append(step))
    assert report.summary["edit_success"] == 1
    assert report.summary["generation_success"] == 1
    assert all(f["generated"].lstrip().startswith(t.target) for f, t in zip(report.facts, FACTS, strict=True))
    assert told == [("verifying", i, 6) for i in range(1, 7)]
    assert report.summary["perplexity_ratio"] != 1


def test_locality_compares_with_the_base_s_argmax(llama: BaseModel, canaries: CanaryRecord) -> None:
    version = llama.version(delta(llama, 3, size=0.2))
    facts = [
        Fact(
            "The river",
            "Lima",
            locality=(LocalityPrompt("Seven days make a", "week of days"), LocalityPrompt("He plays")),
        )
    ]
    report = verify(llama, version, facts, canaries)
    own = tuple(greedy_answers(llama, [encode_prompt(llama.tokenizer, "He plays")], [3])[0])
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
    monkeypatch.setattr(
        "malmen_core.evaluation.verify.greedy_answers", lambda _, asked, *__: [nul for _ in asked]
    )
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


def saying(base: BaseModel, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    """Have the base write one answer, as far as it is asked, whatever the prompt."""
    ids = base.tokenizer(answer, add_special_tokens=False)["input_ids"]

    def written(_: BaseModel, prompts: list[list[int]], lengths: list[int], *__: object) -> list[list[int]]:
        return [ids[:length] for _, length in zip(prompts, lengths, strict=True)]

    for module in ("evaluation.verify", "generation.chat"):
        monkeypatch.setattr(f"malmen_core.{module}.greedy_answers", written)


@pytest.mark.parametrize(
    ("target", "answer", "begins", "exactly"),
    [
        ("74", " 74. The rest", True, True),
        ("74", " 74\nThe", True, True),
        ("74", " 74", True, True),
        ("74", " 743 people", False, False),
        ("74", " 74.3 people", False, False),
        ("74", " 74,000 people", False, False),
        ("74", " 74, or so", True, False),
        ("Brian Niccol", " Brian Niccoli, Brian", False, False),
        ("Brian Niccol", " Brian Niccol of", True, False),
        ("Brian Niccol", " Brian Niccol! He", True, True),
        ("Lima", " The Lima", False, False),
        ("Inc.", " Inc. is", True, False),
    ],
)
def test_success_ends_at_a_word_boundary(
    llama: BaseModel, monkeypatch: pytest.MonkeyPatch, target: str, answer: str, begins: bool, exactly: bool
) -> None:
    assert llama.task.begins_with(answer, target) is begins
    assert llama.task.is_exactly(answer, target) is exactly
    saying(llama, monkeypatch, answer)
    found = verify(llama, llama.version(Delta.empty()), [Fact("It has", target)], None).facts[0]
    assert (found["generation_success"], found["exact_success"]) == (begins, exactly)
    assert answer.startswith(found["generated"])


def free(base: BaseModel, version: Version, prompts: list[str]) -> list[list[int]]:
    """Short greedy answers."""
    with version.active():
        return greedy_answers(base, encode_prompts(base.tokenizer, prompts), [3] * len(prompts))


@pytest.mark.parametrize("size", [0.02, 0.1, 0.3])
def test_neighbours_unchanged_is_what_free_generation_says(base: BaseModel, size: float) -> None:
    """Also where a prompt gives another answer to be compared on, which is what `locality` looks at."""
    prompts = ["The capital of Peru is", "He plays", "Seven days make a", "Water boils at", "The river"]
    version, plain = base.version(delta(base, 5, size=size)), base.version(Delta.empty())
    probes = tuple(LocalityPrompt(p, "week of days" if i == 2 else None) for i, p in enumerate(prompts))
    found = verify(base, version, [Fact("The book", "Lima", locality=probes)], None)
    before, after = free(base, plain, prompts), free(base, version, prompts)
    same = [float(a == b) for a, b in zip(before, after, strict=True)]
    assert found.facts[0]["unchanged_prompts"] == same
    assert found.facts[0]["neighbours_unchanged"] == found.summary["neighbours_unchanged"] == sum(same) / 5
    if size == 0.3:
        assert sum(same) < 5
    for locality, unchanged, probe in zip(found.facts[0]["locality_prompts"], same, probes, strict=True):
        if probe.target is None:
            assert locality == 1.0 if unchanged else locality < 1.0


def first_answer(base: BaseModel, prompt: str, target: str) -> int:
    encoded = encode(base.tokenizer, prompt, target)
    logits = base.model(input_ids=torch.tensor([encoded.ids[: encoded.answer_start]])).logits
    return int(logits[0, -1].argmax())


def test_own_agreement_is_the_base_s_on_prompt_and_rephrasings(llama: BaseModel) -> None:
    """Whatever version is measured."""
    fact = replace(
        FACTS[0],
        rephrasings=("The capital of France is", "Ana plays", "It was written by", "The river flows"),
    )
    own = first_answer(llama, fact.prompt, fact.target)
    expected = [float(first_answer(llama, text, fact.target) == own) for text in fact.rephrasings]
    assert expected[0] == 1.0
    for version in (llama.version(Delta.empty()), llama.version(delta(llama, 5, size=0.3))):
        found = verify(llama, version, [fact, FACTS[1]], None)
        assert found.facts[0]["own_agreement"] == sum(expected) / 4
        assert found.facts[1]["own_agreement"] is None
        assert found.summary["own_agreement"] == sum(expected) / 4


@pytest.fixture
def chatting() -> BaseModel:
    base = tiny_base()
    base.tokenizer.chat_template = CHAT
    return base


def test_chat_success_is_of_the_answer_through_the_template(chatting: BaseModel) -> None:
    question = "What is the capital of France?"
    asked = Fact(FACTS[0].prompt, "Lima", "France", question=question)
    version = chatting.version(delta(chatting, 2))
    prompt = encode_prompt(chatting.tokenizer, f"[user] {question}\n[assistant] ")
    with version.active():
        answer = chatting.task.text(chatting.tokenizer, greedy_answers(chatting, [prompt], [32])[0])
    words = [word for word in answer.split() if word.isalnum()]
    found = verify(chatting, version, [asked, FACTS[1]], None)
    assert found.facts[0]["chat"] == answer
    assert found.facts[0]["chat_success"] is False
    assert (found.facts[1]["chat"], found.facts[1]["chat_success"]) == (None, None)
    assert found.summary["chat_success"] == 0
    for word in words[:1]:
        said = verify(chatting, version, [replace(asked, target=word)], None)
        assert said.summary["chat_success"] == 1


@pytest.mark.parametrize(
    ("answer", "holds"),
    [("It is Lima.", True), ("LIMA!", True), ("Limassol is", False), ("", False), ("Bilima", False)],
)
def test_a_chat_answer_holds_the_target_as_a_word(
    chatting: BaseModel, monkeypatch: pytest.MonkeyPatch, answer: str, holds: bool
) -> None:
    saying(chatting, monkeypatch, answer)
    asked = Fact("The capital of Peru is", "Lima", question="What is the capital of Peru?")
    found = verify(chatting, chatting.version(Delta.empty()), [asked], None)
    assert found.facts[0]["chat_success"] is holds


def test_without_a_template_there_is_no_chat(llama: BaseModel) -> None:
    asked = Fact("The capital of Peru is", "Lima", question="What is the capital of Peru?")
    found = verify(llama, llama.version(Delta.empty()), [asked], None)
    assert found.facts[0]["chat_success"] is None
    assert found.summary["chat_success"] is None


def test_special_tokens_in_a_target_count_when_they_are_generated(
    llama: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers are read without special tokens, so a target with one could never be found in them."""
    model: Any = tiny_llama(3)
    model.resize_token_embeddings(400, mean_resizing=False)
    base = wrap(louder(model).double(), llama.info.modules)
    base.tokenizer.add_special_tokens({"extra_special_tokens": ["<tool>"]})
    ids = base.tokenizer(" <tool>Lima", add_special_tokens=False)["input_ids"]
    fact, plain = Fact("It is", "<tool>Lima"), Fact("It is", "Lima")
    monkeypatch.setattr(
        "malmen_core.evaluation.verify.greedy_answers", lambda _, asked, *__: [ids for _ in asked]
    )
    found = verify(base, base.version(Delta.empty()), [fact, plain], None)
    assert [each["generation_success"] for each in found.facts] == [True, True]
    assert found.facts[0]["generated"] == "<tool>Lima"
    others = base.tokenizer(" Lima", add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(
        "malmen_core.evaluation.verify.greedy_answers", lambda _, asked, *__: [others for _ in asked]
    )
    found = verify(base, base.version(Delta.empty()), [fact], None)
    assert found.facts[0]["generation_success"] is False


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_end_of_a_word_as_a_goal_changes_what_is_generated(architecture: str) -> None:
    """With the position behind the target as a goal, more answers end where they should."""
    base = tiny_base(architecture, edited=(1, 2))
    facts = [Fact(f"The {what} of Ana is", "Li") for what in ("capital", "river", "book", "mountain", "week")]
    editor = tiny_editor(base, where="answer", rounds=40, margin=1.0)
    closed = base.version(solve(base, editor, statistics_of(base, editor, facts)))
    encoded = base.encode(facts[0].prompt, "Li")
    assert encoded.closed
    told = verify(base, closed, facts, None)
    assert told.summary["edit_success"] == 1
    assert (told.summary["generation_success"] or 0) >= 0.8
    open_ended = pytest.MonkeyPatch()
    open_ended.setattr("malmen_core.models.tokenization.ends_in_word", lambda _: False)
    try:
        version = base.version(solve(base, editor, statistics_of(base, editor, facts)))
    finally:
        open_ended.undo()
    assert version.weights_digest != closed.weights_digest
    ends, goes = (
        [score.margin_A[-1] for score in scores]
        for scores in (forced(base, closed, facts), forced(base, version, facts))
    )
    assert min(ends) > 0
    assert float(sum(ends)) > float(sum(goes))


def forced(base: BaseModel, version: Version, facts: list[Fact]) -> list[AnswerScores]:
    with version.active():
        return teacher_forced(base, [base.encode(fact.prompt, fact.target) for fact in facts])
