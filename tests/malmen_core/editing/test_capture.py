"""Captured rows against brute-force autograd, one unpadded sequence at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from malmen_core.editing import capture as module
from malmen_core.editing.capture import capture, edited_positions, keys_at, keys_everywhere
from malmen_core.editing.goals import edit_goals
from malmen_core.models.base import BaseModel
from malmen_core.models.batching import answer_logits, batches, score_answers, teacher_forced
from malmen_core.models.memory import MemoryBudget
from malmen_core.models.overlay import EditedModule, Weights, intercepting
from malmen_core.models.tokenization import END, Encoded, KeyPosition
from tests.malmen_core.support import FACTS, assert_untouched, snapshot

ONE_BY_ONE = 1
ALL_AT_ONCE = 10_000
Rows = dict[str, Tensor]


def losses(base: BaseModel, logits_LX: Tensor, sequence: Encoded) -> list[Tensor]:
    """Negative log-likelihood of each answer token, and of the word's end, from an unpadded sequence's logits."""
    log_p = logits_LX.log_softmax(1)
    found = [-log_p[sequence.answer_start - 1 + n, token] for n, token in enumerate(sequence.answer)]
    if sequence.closed:
        assert base.continuing_X is not None
        on = log_p[len(sequence.ids) - 1, base.continuing_X].exp().sum()
        found.append(-(1 - on).log())
    return found


def loss(base: BaseModel, logits_LX: Tensor, sequence: Encoded) -> Tensor:
    """Total negative log-likelihood of an answer."""
    return torch.stack(losses(base, logits_LX, sequence)).sum()


def read(sequence: Encoded) -> list[int]:
    """Positions that predict what is scored."""
    return list(range(sequence.answer_start - 1, len(sequence.ids) - 1 + int(sequence.closed)))


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
        loss(base, forward(base, sequence), sequence).backward()  # type: ignore[no-untyped-call]
    finally:
        for handle in handles:
            handle.remove()
    at = list(sequence.key_positions(where))
    gradients = {name: output.grad for name, output in outputs.items()}
    return {n: x[0, at] for n, x in inputs.items()}, {
        n: g[0, at] for n, g in gradients.items() if g is not None
    }


def sequences(base: BaseModel) -> tuple[Encoded, ...]:
    return edit_goals(base, FACTS, edit_on_rephrasings=True).sequences


@pytest.mark.parametrize("forward", [alone, padded_right])
@pytest.mark.parametrize("where", ["subject", "answer"])
def test_rows_equal_brute_force(
    base: BaseModel, where: KeyPosition, forward: Callable[[BaseModel, Encoded], Tensor]
) -> None:
    wanted = [brute_force(base, sequence, where, forward) for sequence in sequences(base)]
    found = capture(base, sequences(base), where, batch_tokens=ALL_AT_ONCE)
    assert found.sequence_T.tolist() == [
        i for i, s in enumerate(sequences(base)) for _ in s.key_positions(where)
    ]
    for name in base.modules:
        for rows, expected in (
            (found.keys[name], torch.cat([keys[name] for keys, _ in wanted])),
            (found.gradients[name], torch.cat([gradients[name] for _, gradients in wanted])),
        ):
            assert rows.dtype == torch.float64
            assert expected.abs().max() > 1e-4
            torch.testing.assert_close(rows, expected, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("where", ["subject", "answer"])
@pytest.mark.parametrize("batch_tokens", [ONE_BY_ONE, 30])
def test_any_language_model_batch_gives_the_same(
    base: BaseModel, batch_tokens: int, where: KeyPosition
) -> None:
    whole = capture(base, sequences(base), where, batch_tokens=ALL_AT_ONCE)
    parts = capture(base, sequences(base), where, batch_tokens=batch_tokens)
    for name in base.modules:
        torch.testing.assert_close(parts.keys[name], whole.keys[name], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(parts.gradients[name], whole.gradients[name], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(parts.nll_Q, whole.nll_Q)
    torch.testing.assert_close(parts.margin_Q, whole.margin_Q)


def test_any_order_of_sequences_gives_the_same_rows(base: BaseModel) -> None:
    order = torch.randperm(len(sequences(base)), generator=torch.Generator().manual_seed(1)).tolist()
    whole = capture(base, sequences(base), "subject")
    mixed = capture(base, [sequences(base)[i] for i in order], "subject")
    owner = torch.tensor(order)[mixed.sequence_T]
    for name in base.modules:
        for i in range(len(order)):
            torch.testing.assert_close(
                mixed.gradients[name][owner == i],
                whole.gradients[name][whole.sequence_T == i],
                rtol=1e-9,
                atol=1e-12,
            )


def test_answers_stand_as_the_model_has_them(base: BaseModel) -> None:
    """Total loss and smallest margin of each sequence, by hand; the position behind an answer counts too."""
    found = capture(base, sequences(base), "subject", gradients=False)
    assert found.gradients == {}
    assert base.continuing_X is not None
    for number, sequence in enumerate(sequences(base)):
        logits = alone(base, sequence)
        assert float(found.nll_Q[number]) == pytest.approx(float(loss(base, logits, sequence)))
        margins = []
        for n, token in enumerate(sequence.answer):
            others = logits[sequence.answer_start - 1 + n].clone()
            others[token] = -torch.inf
            margins.append(float(logits[sequence.answer_start - 1 + n, token] - others.max()))
        if sequence.closed:
            last = logits[len(sequence.ids) - 1]
            margins.append(float(last[~base.continuing_X].max() - last[base.continuing_X].max()))
        assert float(found.margin_Q[number]) == pytest.approx(min(margins))


def test_a_pass_at_other_weights_sees_what_they_give(base: BaseModel) -> None:
    """Keys below a changed module are the base's, those above are not."""
    first, second = base.modules
    draw = torch.Generator().manual_seed(1)
    weight_UV = base.modules[first].weight_UV
    noise_UV = 0.1 * torch.randn(weight_UV.shape, generator=draw, dtype=torch.float64)
    changed = {first: weight_UV + noise_UV, second: base.modules[second].weight_UV}
    on_base = capture(base, sequences(base), "answer")
    found = capture(base, sequences(base), "answer", weights=Weights(changed))
    torch.testing.assert_close(found.keys[first], on_base.keys[first])
    assert not torch.allclose(found.keys[second], on_base.keys[second])
    with intercepting(Weights(changed)):
        logits = [alone(base, sequence) for sequence in sequences(base)]
    expected = [float(loss(base, each, s)) for each, s in zip(logits, sequences(base), strict=True)]
    assert found.nll_Q.tolist() == pytest.approx(expected)


def test_capture_leaves_the_base_alone(base: BaseModel) -> None:
    before, digest = snapshot(base), base.parameters_digest()
    capture(base, sequences(base), "answer")
    assert_untouched(base, before)
    assert base.parameters_digest() == digest


def test_answer_logits_equal_an_unpadded_forward_pass(base: BaseModel) -> None:
    chosen = sequences(base)
    batch = base.task.collate(chosen, range(len(chosen)), base.pad_id)
    mask = batch.inputs["attention_mask"]
    assert mask.sum() < mask.numel()
    with torch.no_grad():
        logits = answer_logits(base, chosen, batch)
        expected = torch.cat([alone(base, s)[read(s)] for s in chosen])
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-11)
    assert batch.answer_A.tolist() == [t for s in chosen for t in (*s.answer, *[END] * s.closed)]


def test_columns_point_at_a_sequence_s_own_positions(base: BaseModel) -> None:
    chosen = sequences(base)
    batch = base.task.collate(chosen, range(len(chosen)), base.pad_id)
    for row, sequence in enumerate(chosen):
        columns = [batch.readings["decoder"].column(row, p) for p in range(sequence.read)]
        found = [int(batch.inputs["input_ids"][row, column]) for column in columns]
        assert tuple(found) == sequence.ids[: sequence.read]
        positions = [int(batch.inputs["position_ids"][row, column]) for column in columns]
        assert positions == list(range(len(found)))


def test_an_answer_s_last_token_is_read_only_for_what_follows_it(base: BaseModel) -> None:
    closed = Encoded((5, 6, 7, 8), 2, closed=True)
    assert closed.read == 4
    answered, open_ended = Encoded((5, 6, 7, 8), 2), Encoded((5, 6, 7), 3)
    assert (answered.read, open_ended.read) == (3, 3)
    batch = base.task.collate([answered, open_ended], range(2), base.pad_id)
    assert batch.inputs["input_ids"].tolist() == [[5, 6, 7], [5, 6, 7]]


def test_sequences_of_like_length_share_a_batch(llama: BaseModel) -> None:
    chosen = [Encoded((5,) * length, length) for length in (4, 12, 4, 5, 6)]
    assert [batch.members for batch in batches(llama, chosen)] == [(0, 2, 3, 4), (1,)]
    llama.memory.tokens = 8
    try:
        assert [batch.members for batch in batches(llama, chosen)] == [(0, 2), (3,), (4,), (1,)]
    finally:
        llama.memory = MemoryBudget(llama.device, None, 1)


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
    scores = score_answers(logits, torch.tensor([0, 1]), None)
    torch.testing.assert_close(scores.margin_A, torch.tensor([1.0, -0.5]))
    torch.testing.assert_close(scores.nll_A, -logits.log_softmax(1)[[0, 1], [0, 1]])
    assert scores.argmax_A.tolist() == [0, 2]


def test_a_word_s_end_is_scored_by_what_would_go_on_in_it() -> None:
    """Token 1 and 3 go on; the margin is of the best that ends the word over the best that does not."""
    logits = torch.tensor([[2.0, 1.5, 0.0, -1.0], [0.0, 3.0, 1.0, 0.0]], dtype=torch.float64)
    continuing = torch.tensor([False, True, False, True])
    scores = score_answers(logits.requires_grad_(), torch.tensor([END, END]), continuing)
    ends = logits.detach().softmax(1)[:, [0, 2]].sum(1)
    torch.testing.assert_close(scores.nll_A, -ends.log())
    torch.testing.assert_close(scores.margin_A, torch.tensor([0.5, -2.0], dtype=torch.float64))
    assert scores.argmax_A.tolist() == [END, 1]
    scores.nll_A.sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert bool((logits.grad[:, continuing] > 0).all())
    assert bool((logits.grad[:, ~continuing] < 0).all())


def test_teacher_forced_keeps_the_order_in_any_batch(base: BaseModel) -> None:
    whole = teacher_forced(base, sequences(base), ALL_AT_ONCE)
    single = teacher_forced(base, sequences(base), ONE_BY_ONE)
    for a, b, sequence in zip(whole, single, sequences(base), strict=True):
        torch.testing.assert_close(a.nll_A, b.nll_A, rtol=1e-9, atol=1e-11)
        with torch.no_grad():
            torch.testing.assert_close(a.nll_A.sum(), loss(base, alone(base, sequence), sequence))
    assert teacher_forced(base, []) == []


def test_the_output_layer_runs_at_answer_tokens_alone(base: BaseModel) -> None:
    encoded = sequences(base)
    batch = base.task.collate(encoded, range(len(encoded)), base.pad_id)
    rows: list[int] = []
    layer = base.model.get_output_embeddings()
    handle = layer.register_forward_hook(lambda _, __, output: rows.append(output[..., 0].numel()))
    answer_logits(base, encoded, batch)
    handle.remove()
    assert rows == [sum(len(read(sequence)) for sequence in encoded)]


def test_keys_everywhere_are_those_of_each_sequence_alone(base: BaseModel) -> None:
    encoded = sequences(base)
    found = keys_everywhere(base, encoded)
    seen: Rows = {}

    def record(edited: EditedModule, inputs: Tensor) -> Tensor:
        seen[edited.name] = inputs[0].detach()
        return edited.base(inputs)

    start = 0
    for sequence in encoded:
        with torch.no_grad(), intercepting(record):
            alone(base, sequence)
        for name, keys_NU in found.items():
            own = keys_NU[start : start + sequence.read]
            torch.testing.assert_close(own, seen[name][: sequence.read], rtol=1e-9, atol=1e-11)
        start += len(sequence.ids)


def test_keys_of_few_sequences_are_kept_at_a_time(llama: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [Encoded(tuple(range(5, 5 + length)), length) for length in (8, 4, 9, 30, 2)]
    positions = [[0, 7], [3], [], [29], [0, 1]]
    whole = keys_at(llama, texts, positions)
    asked: list[int] = []

    def spy(base: BaseModel, some: Sequence[Encoded]) -> dict[str, Tensor]:
        asked.append(sum(len(each.ids) for each in some))
        return keys_everywhere(base, some)

    monkeypatch.setattr(module, "KEYS_AT_ONCE", 20)
    monkeypatch.setattr(module, "keys_everywhere", spy)
    parts = keys_at(llama, texts, positions)
    assert asked == [12, 9, 30, 2]
    first = [0, 8, 12, 21, 51]
    everywhere = keys_everywhere(llama, texts)
    rows = [start + p for start, own in zip(first, positions, strict=True) for p in own]
    for name, keys_NU in parts.items():
        torch.testing.assert_close(keys_NU, whole[name])
        torch.testing.assert_close(keys_NU, everywhere[name][rows])
    assert all(len(keys) == 0 for keys in keys_at(llama, [], []).values())


def test_edited_positions_are_by_stack(t5: BaseModel, llama: BaseModel) -> None:
    encoded = t5.encode("What is the capital of France?", "Lima", "France")
    decoder = [("decoder", p) for p in encoded.key_positions("answer")]
    assert edited_positions(t5, encoded, "subject") == [("encoder", encoded.subject_last), *decoder]
    own = sequences(llama)[0]
    assert edited_positions(llama, own, "subject") == [("decoder", own.subject_last)]
