"""Captured rows against brute-force autograd, one unpadded sequence at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from malmen_core.editing.capture import capture, keys_by_group, keys_everywhere
from malmen_core.editing.prompts import edit_prompts
from malmen_core.models.base import BaseModel
from malmen_core.models.batching import answer_logits, batches, score_answers, teacher_forced
from malmen_core.models.memory import Room
from malmen_core.models.tokenization import Encoded, KeyPosition
from tests.malmen_core.support import FACTS, assert_untouched, snapshot

ONE_BY_ONE = 1
ALL_AT_ONCE = 10_000
Rows = dict[str, Tensor]


def loss(logits_LX: Tensor, sequence: Encoded) -> Tensor:
    """Total negative log-likelihood of an answer from an unpadded sequence's logits."""
    predicted = logits_LX[sequence.answer_start - 1 : len(sequence.ids) - 1]
    return functional.cross_entropy(predicted, torch.tensor(sequence.answer), reduction="sum")


def alone(base: BaseModel, sequence: Encoded) -> Tensor:
    """Logits of one sequence, unpadded: L × X."""
    logits: Tensor = base.model(input_ids=torch.tensor([sequence.ids]), use_cache=False).logits[0]
    return logits


def padded_right(base: BaseModel, sequence: Encoded) -> Tensor:
    """The same with padding on the right: L × X."""
    ids = torch.tensor([[*sequence.ids, *[5] * 4]])
    mask = torch.tensor([[1] * len(sequence.ids) + [0] * 4])
    logits: Tensor = base.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[0]
    return logits[: len(sequence.ids)]


def brute_force(
    base: BaseModel, sequence: Encoded, where: KeyPosition, forward: Callable[[BaseModel, Encoded], Tensor]
) -> tuple[Rows, Rows]:
    """Keys and gradients by plain hooks and autograd."""
    inputs: Rows = {}
    outputs: Rows = {}

    def hook(name: str) -> Any:
        def record(module: Any, args: Any, output: Tensor) -> Tensor:
            kept = output.detach().requires_grad_() if not output.requires_grad else output
            kept.retain_grad()
            inputs[name], outputs[name] = args[0].detach(), kept
            return kept

        return record

    handles = [m.module.register_forward_hook(hook(name)) for name, m in base.modules.items()]
    try:
        loss(forward(base, sequence), sequence).backward()  # type: ignore[no-untyped-call]
    finally:
        for handle in handles:
            handle.remove()
    at = list(sequence.key_positions(where))
    gradients = {name: output.grad for name, output in outputs.items()}
    return {n: x[0, at] for n, x in inputs.items()}, {
        n: g[0, at] for n, g in gradients.items() if g is not None
    }


def sequences(base: BaseModel) -> tuple[Encoded, ...]:
    return edit_prompts(base, FACTS, edit_on_rephrasings=True).sequences


@pytest.mark.parametrize("forward", [alone, padded_right])
@pytest.mark.parametrize("where", ["subject", "answer"])
def test_rows_equal_brute_force(
    base: BaseModel, where: KeyPosition, forward: Callable[[BaseModel, Encoded], Tensor]
) -> None:
    wanted = [brute_force(base, sequence, where, forward) for sequence in sequences(base)]
    captured, sequence_T = capture(base, sequences(base), where, batch_tokens=ALL_AT_ONCE)
    assert sequence_T.tolist() == [i for i, s in enumerate(sequences(base)) for _ in s.key_positions(where)]
    for name in base.modules:
        for found, expected in (
            (captured[name].keys_TU, torch.cat([keys[name] for keys, _ in wanted])),
            (captured[name].gradients_TV, torch.cat([gradients[name] for _, gradients in wanted])),
        ):
            assert found.dtype == torch.float64
            assert expected.abs().max() > 1e-4
            torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("where", ["subject", "answer"])
@pytest.mark.parametrize("batch_tokens", [ONE_BY_ONE, 30])
def test_any_language_model_batch_gives_the_same(
    base: BaseModel, batch_tokens: int, where: KeyPosition
) -> None:
    whole, _ = capture(base, sequences(base), where, batch_tokens=ALL_AT_ONCE)
    parts, _ = capture(base, sequences(base), where, batch_tokens=batch_tokens)
    for name in base.modules:
        torch.testing.assert_close(parts[name].keys_TU, whole[name].keys_TU, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(parts[name].gradients_TV, whole[name].gradients_TV, rtol=1e-9, atol=1e-12)


def test_any_order_of_sequences_gives_the_same_rows(base: BaseModel) -> None:
    order = torch.randperm(len(sequences(base)), generator=torch.Generator().manual_seed(1)).tolist()
    whole, _ = capture(base, sequences(base), "subject")
    mixed, sequence_T = capture(base, [sequences(base)[i] for i in order], "subject")
    first, owner = capture(base, sequences(base), "subject")[1], torch.tensor(order)[sequence_T]
    for name in base.modules:
        for i in range(len(order)):
            torch.testing.assert_close(
                mixed[name].gradients_TV[owner == i],
                whole[name].gradients_TV[first == i],
                rtol=1e-9,
                atol=1e-12,
            )


def test_capture_leaves_the_base_alone(base: BaseModel) -> None:
    before, digest = snapshot(base), base.parameters_digest()
    capture(base, sequences(base), "answer")
    assert_untouched(base, before)
    assert base.parameters_digest() == digest


def test_answer_logits_equal_an_unpadded_forward_pass(base: BaseModel) -> None:
    chosen = sequences(base)
    batch = base.task.collate(base, chosen, range(len(chosen)))
    mask = batch.inputs["attention_mask"]
    assert mask.sum() < mask.numel()
    with torch.no_grad():
        logits = answer_logits(base, batch)
        expected = torch.cat([alone(base, s)[s.answer_start - 1 : len(s.ids) - 1] for s in chosen])
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-11)
    assert batch.answer_A.tolist() == [token for s in chosen for token in s.answer]


def test_columns_point_at_a_sequence_s_own_positions(base: BaseModel) -> None:
    chosen = sequences(base)
    batch = base.task.collate(base, chosen, range(len(chosen)))
    for row, sequence in enumerate(chosen):
        columns = [batch.readings["decoder"].column(row, p) for p in range(sequence.read)]
        found = [int(batch.inputs["input_ids"][row, column]) for column in columns]
        assert tuple(found) == sequence.ids[: sequence.read]
        positions = [int(batch.inputs["position_ids"][row, column]) for column in columns]
        assert positions == list(range(len(found)))


def test_an_answer_s_last_token_is_not_read(base: BaseModel) -> None:
    answered, open_ended = Encoded((5, 6, 7, 8), 2), Encoded((5, 6, 7), 3)
    assert (answered.read, open_ended.read) == (3, 3)
    batch = base.task.collate(base, [answered, open_ended], range(2))
    assert batch.inputs["input_ids"].tolist() == [[5, 6, 7], [5, 6, 7]]


def test_a_longer_sequence_is_padded_for_only_where_that_is_faster(llama: BaseModel) -> None:
    chosen = [Encoded((5,) * length, length) for length in (4, 4, 4, 5, 12)]
    llama.room.pass_tokens = 8
    try:
        assert [batch.members for batch in batches(llama, chosen)] == [(0, 1, 2, 3), (4,)]
        llama.room.pass_tokens = 28
        assert [batch.members for batch in batches(llama, chosen)] == [(0, 1, 2, 3, 4)]
    finally:
        llama.room = Room(llama, None)


@pytest.mark.parametrize("budget", [1, 25, 60, ALL_AT_ONCE])
def test_batches_hold_every_sequence_once_within_the_budget(llama: BaseModel, budget: int) -> None:
    chosen = sequences(llama)
    made = list(batches(llama, chosen, batch_tokens=budget))
    assert sorted(i for batch in made for i in batch.members) == list(range(len(chosen)))
    assert all(batch.inputs["input_ids"].numel() <= budget or len(batch.members) == 1 for batch in made)
    assert [b.members for b in batches(llama, chosen, members=[3, 1])] in ([(3, 1)], [(1, 3)])
    assert list(batches(llama, [])) == []


def test_scores_of_answers_by_hand() -> None:
    logits = torch.tensor([[2.0, 1.0, -1.0], [0.0, 3.0, 3.5]])
    scores = score_answers(logits, torch.tensor([0, 1]))
    torch.testing.assert_close(scores.margin_A, torch.tensor([1.0, -0.5]))
    torch.testing.assert_close(scores.nll_A, -logits.log_softmax(1)[[0, 1], [0, 1]])
    assert scores.argmax_A.tolist() == [0, 2]


def test_teacher_forced_keeps_the_order_in_any_batch(base: BaseModel) -> None:
    whole = teacher_forced(base, sequences(base), ALL_AT_ONCE)
    single = teacher_forced(base, sequences(base), ONE_BY_ONE)
    for a, b, sequence in zip(whole, single, sequences(base), strict=True):
        torch.testing.assert_close(a.nll_A, b.nll_A, rtol=1e-9, atol=1e-11)
        with torch.no_grad():
            torch.testing.assert_close(a.nll_A.sum(), loss(alone(base, sequence), sequence))
    assert teacher_forced(base, []) == []


def test_the_output_layer_runs_at_answer_tokens_alone(base: BaseModel) -> None:
    encoded = sequences(base)
    batch = base.task.collate(base, encoded, range(len(encoded)))
    rows: list[int] = []
    layer = base.model.get_output_embeddings()
    handle = layer.register_forward_hook(lambda _, __, output: rows.append(output[..., 0].numel()))
    answer_logits(base, batch)
    handle.remove()
    assert rows == [sum(len(sequence.answer) for sequence in encoded)]


def test_keys_of_few_groups_are_held_at_a_time(llama: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [[Encoded((5, 6, 7, 8), 4)] * count for count in (2, 2, 2, 8, 1)]
    asked: list[int] = []

    def spy(base: BaseModel, sequences: Sequence[Encoded]) -> dict[str, Tensor]:
        asked.append(sum(len(each.ids) for each in sequences))
        return keys_everywhere(base, sequences)

    monkeypatch.setattr("malmen_core.editing.capture.KEYS_BATCH", 20)
    monkeypatch.setattr("malmen_core.editing.capture.keys_everywhere", spy)
    found = list(keys_by_group(llama, groups))
    assert asked == [16, 8, 32, 4]
    assert [len(next(iter(keys.values()))) for keys in found] == [8, 8, 8, 32, 4]
