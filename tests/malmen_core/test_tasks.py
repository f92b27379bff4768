"""Sequence-to-sequence models and classifiers: captured, edited, verified, generated from, rolled back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from malmen_core.editing.capture import capture, keys_everywhere
from malmen_core.editing.edit import compute_statistics, solve
from malmen_core.editing.preserved import compress
from malmen_core.editing.prompts import edit_prompts
from malmen_core.editing.statistics import Rows, Statistics
from malmen_core.errors import FactError, PromptTooLong
from malmen_core.evaluation.verify import record_canaries, verify
from malmen_core.facts import Fact, Probe
from malmen_core.generation.generator import Chunk, GenerationRequest, generate
from malmen_core.generation.greedy import greedy_tokens
from malmen_core.models.base import BaseModel
from malmen_core.models.batching import teacher_forced
from malmen_core.models.delta import Delta
from malmen_core.models.overlay import Version
from malmen_core.models.tasks.base import TextTask
from malmen_core.models.tokenization import Encoded, KeyPosition, check_facts, encode_prompt, plain_text
from tests.malmen_core.support import shift, snapshot, tiny_editor
from tests.tiny_tasks import LABELS, save_tiny_task

KINDS = ("bert", "roberta", "t5")
QUESTIONS = (
    Fact("What is the capital of France?", "Lima", "France", ("Which city does France have as capital?",)),
    Fact("Who wrote the book?", "Ana"),
    Fact("In what country is Mount Etna?", "Peru now", "Mount Etna", (), (Probe("Where is Lima?"),)),
)


@pytest.fixture(scope="module", params=KINDS)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    folder = save_tiny_task(tmp_path_factory.mktemp("tasks") / request.param, request.param)
    return BaseModel.load(str(folder), device="cpu", dtype="float64")


def facts_for(base: BaseModel) -> list[Fact]:
    """The questions; for a classifier, each with the label that it finds least likely."""
    if isinstance(base.task, TextTask):
        return list(QUESTIONS)
    asked = [answered(base, base.version(Delta.empty()), fact.prompt).labels or {} for fact in QUESTIONS]
    return [
        replace(fact, target=min(labels, key=lambda label: labels[label]))
        for fact, labels in zip(QUESTIONS, asked, strict=True)
    ]


def answered(base: BaseModel, version: Version, prompt: str) -> Chunk:
    chunks = list(generate(base, version, GenerationRequest(prompt, max_new_tokens=8)))
    return replace(chunks[-1], text="".join(chunk.text for chunk in chunks))


@pytest.mark.parametrize("where", ["subject", "answer"])
def test_facts_are_edited_verified_generated_and_rolled_back(base: BaseModel, where: KeyPosition) -> None:
    facts, before = facts_for(base), snapshot(base)
    editor = tiny_editor(base, where=where, rounds=60, margin=1.0, anchors=4, facts=facts)
    canaries, untouched = record_canaries(base), base.version(Delta.empty())
    version = base.version(solve(editor, compute_statistics(base, editor, facts)))
    old, new = (verify(base, v, facts, canaries) for v in (untouched, version))
    assert old.summary["edit_success"] < 1.0 == new.summary["edit_success"]  # type: ignore[operator]
    assert old.summary["generation_success"] < 1.0 == new.summary["generation_success"]  # type: ignore[operator]
    assert old.summary["perplexity_ratio"] == pytest.approx(1.0)
    assert old.summary["locality"] == old.summary["canary_agreement"] == 1.0
    assert new.summary["generalisation"] is not None
    for fact in facts:
        assert base.task.agrees(answered(base, version, fact.prompt).text, fact.target)
    assert set(version.weights) == set(base.modules)
    again = base.version(Delta.empty())
    assert verify(base, again, facts, canaries) == old
    assert again.weights_digest != version.weights_digest
    after = base.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def alone(base: BaseModel, encoded: Encoded) -> Tensor:
    """Logits of one sequence's answer, by hand: A × X."""
    prompt = torch.tensor([encoded.ids[: encoded.answer_start]])
    if base.info.architecture != "t5":
        return base.model(input_ids=prompt).logits  # type: ignore[no-any-return]
    written = torch.tensor([[0, *encoded.answer[:-1]]])
    return base.model(input_ids=prompt, decoder_input_ids=written).logits[0]  # type: ignore[no-any-return]


def seen_by_hooks(base: BaseModel, encoded: Encoded) -> dict[str, tuple[Tensor, Tensor]]:
    """Inputs of each module, and gradients of its outputs, for one sequence alone: L × U and L × V."""
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[..., Tensor]:
        def record(_: Any, args: Any, output: Tensor) -> Tensor:
            kept = output if output.requires_grad else output.detach().requires_grad_()
            kept.retain_grad()
            inputs[name], outputs[name] = args[0].detach(), kept
            return kept

        return record

    handles = [m.module.register_forward_hook(hook(name)) for name, m in base.modules.items()]
    try:
        log_p = alone(base, encoded).log_softmax(1)
        (-log_p[range(len(encoded.answer)), list(encoded.answer)]).sum().backward()  # type: ignore[no-untyped-call]
    finally:
        for handle in handles:
            handle.remove()
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for name, output in outputs.items():
        assert output.grad is not None
        found[name] = inputs[name][0], output.grad[0]
    return found


@pytest.mark.parametrize("batch_tokens", [1, 1000])
@pytest.mark.parametrize("where", ["subject", "answer"])
def test_each_stack_is_captured_at_its_own_tokens(
    base: BaseModel, where: KeyPosition, batch_tokens: int
) -> None:
    """By hand: the subject in the encoder (else pooled, or last), the answer's tokens in the decoder."""
    encoded = edit_prompts(base, facts_for(base), edit_on_rephrasings=True).sequences
    captured, _ = capture(base, encoded, where, batch_tokens=batch_tokens)
    for name, rows in captured.items():
        expected = []
        for sequence in encoded:
            keys, gradients = seen_by_hooks(base, sequence)[name]
            if name.startswith("decoder."):
                at = list(range(len(sequence.answer)))
            elif where == "subject" and sequence.subject_last is not None:
                at = [sequence.subject_last]
            else:
                at = [sequence.answer_start - 1] if base.info.architecture == "t5" else [0]
            expected.append((keys[at], gradients[at]))
        own = rows.keys_TU.any(1)
        torch.testing.assert_close(rows.keys_TU[own], torch.cat([k for k, _ in expected]))
        torch.testing.assert_close(rows.gradients_TV[own], torch.cat([g for _, g in expected]))
        assert not rows.gradients_TV[~own].any()


def test_keys_everywhere_are_those_of_each_sequence_alone(base: BaseModel) -> None:
    encoded = edit_prompts(base, facts_for(base)).sequences
    found = keys_everywhere(base, encoded)
    for name, keys_NU in found.items():
        expected = torch.cat([seen_by_hooks(base, sequence)[name][0] for sequence in encoded])
        torch.testing.assert_close(keys_NU[keys_NU.any(1)], expected)
        assert len(keys_NU) == sum(len(sequence.ids) for sequence in encoded)


def test_teacher_forcing_in_batches_equals_one_by_one(base: BaseModel) -> None:
    encoded = edit_prompts(base, facts_for(base), edit_on_rephrasings=True).sequences
    for sequence, score in zip(encoded, teacher_forced(base, encoded), strict=True):
        log_p = alone(base, sequence).log_softmax(1)
        torch.testing.assert_close(-score.nll_A, log_p[range(len(sequence.answer)), list(sequence.answer)])


def test_greedy_answers_in_a_batch_equal_streamed_ones(base: BaseModel) -> None:
    prompts = [fact.prompt for fact in QUESTIONS]
    untouched = base.version(Delta.empty())
    for prompt, ids in zip(prompts, greedy_tokens(base, prompts, [8] * len(prompts)), strict=True):
        assert base.task.text(base.tokenizer, ids) == answered(base, untouched, prompt).text


def test_rows_of_other_stacks_change_nothing(base: BaseModel) -> None:
    facts = facts_for(base)
    editor = tiny_editor(base, facts=facts)
    whole = compute_statistics(base, editor, facts)
    for name, rows in whole.modules.items():
        own = rows.keys_TU.any(1)
        mine = Statistics(
            {name: Rows(rows.keys_TU[own], rows.differences_TV[own])}, whole.fact_T[own], len(facts)
        )
        torch.testing.assert_close(shift(solve(editor, whole))[name], shift(solve(editor, mine))[name])


def test_many_rows_of_another_stack_can_be_compressed() -> None:
    keys = torch.zeros(400, 48)
    keys[::16] = torch.randn(25, 48)
    kept = compress(keys, 16)
    assert kept.shape == (16, 48)
    torch.testing.assert_close(kept, compress(keys[::16], 16))


def test_sets_add_up(base: BaseModel) -> None:
    facts = facts_for(base)
    editor = tiny_editor(base, facts=facts)
    parts = [compute_statistics(base, editor, [fact]) for fact in facts]
    together = shift(solve(editor, compute_statistics(base, editor, facts)))
    for name, change in shift(solve(editor, Statistics.sum(parts))).items():
        torch.testing.assert_close(change, together[name], rtol=1e-4, atol=1e-6)


def test_an_answer_is_the_decoder_s_whole_text_with_its_end(t5: BaseModel) -> None:
    encoded = t5.encode("What is the capital of France?", "Lima", "France")
    assert list(encoded.answer) == encode_prompt(t5.tokenizer, "Lima")
    assert encoded.answer[-1] == t5.tokenizer.eos_token_id
    assert plain_text(t5.tokenizer, encoded.answer) == "Lima"


def test_encoder_and_decoder_are_edited_together(t5: BaseModel) -> None:
    assert list(t5.stack_of.values()) == ["encoder", "encoder", "decoder", "decoder"]
    encoded = t5.encode("What is the capital of France?", "Lima", "France")
    assert t5.task.key_positions(encoded, "subject", "encoder") == (encoded.subject_last,)
    answers = tuple(range(encoded.answer_start - 1, len(encoded.ids) - 1))
    assert t5.task.key_positions(encoded, "subject", "decoder") == answers


def test_a_claim_is_answered_with_labels_and_probabilities(bert: BaseModel) -> None:
    (chunk,) = generate(bert, bert.version(Delta.empty()), GenerationRequest("Lima is the capital of Peru."))
    assert chunk.labels is not None
    assert tuple(chunk.labels) == LABELS
    assert sum(chunk.labels.values()) == pytest.approx(1.0)
    assert chunk.text == max(chunk.labels, key=lambda label: chunk.labels[label])  # type: ignore[index]
    assert chunk.finish_reason == "stop"


def test_a_label_that_the_classifier_does_not_know_is_refused(bert: BaseModel) -> None:
    with pytest.raises(FactError, match="SUPPORTS, REFUTES") as refused:
        bert.encode("Lima is the capital of Peru.", "Canberra")
    assert refused.value.field == "/target"
    facts = [
        Fact("a claim", "REFUTES", locality=(Probe("b"), Probe("c", "SUPPORTS"))),
        Fact("a second", "refutes", locality=(Probe("d", "maybe"),)),
    ]
    problems = check_facts(bert.tokenizer, facts, bert.info.context_length, bert.task.labels)
    assert [problem.pointer for problem in problems] == ["/facts/1/target", "/facts/1/locality/0/target"]
    assert all("NOT ENOUGH INFO" in problem.detail for problem in problems)


def test_a_claim_longer_than_the_context_is_refused(bert: BaseModel) -> None:
    with pytest.raises(PromptTooLong):
        list(generate(bert, bert.version(Delta.empty()), GenerationRequest("river " * 63)))
    assert list(generate(bert, bert.version(Delta.empty()), GenerationRequest("river " * 62)))


def test_roberta_s_first_positions_are_no_context(tmp_path: Path) -> None:
    base = BaseModel.load(str(save_tiny_task(tmp_path, "roberta")), device="cpu")
    assert base.info.context_length == 128
    ids = (0, *[300] * 127)
    assert teacher_forced(base, [Encoded((*ids, 1), 128)])[0].nll_A.isfinite().all()
