"""What no gradient goes through is read ahead: the same rows wherever sequences can share a cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from malmen_core.editing import capture as module
from malmen_core.editing.capture import capture, capture_odds
from malmen_core.editing.prompts import edit_prompts
from malmen_core.models.base import BaseModel
from malmen_core.models.batching import answer_logits, batches
from malmen_core.models.overlay import Weights
from malmen_core.models.tasks.base import Batch
from malmen_core.models.tasks.causal import read_ahead
from malmen_core.models.tokenization import Encoded
from tests.malmen_core.support import FACTS
from tests.malmen_core.test_families import CAUSAL, checkpoint

NEVER = 10**9


def all_at_once(base: BaseModel, sequences: Any, **_: Any) -> list[Batch]:
    return [base.task.collate(base, sequences, range(len(sequences)))]


@pytest.mark.parametrize("kind", CAUSAL)
def test_rows_are_those_of_whole_sequences(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = BaseModel.load(str(checkpoint(kind, tmp_path)), device="cpu", dtype="float32")
    sequences = edit_prompts(base, FACTS, edit_on_rephrasings=True).sequences
    torch.manual_seed(0)
    weights = Weights({n: m.weight_UV + 0.1 * torch.randn(m.shape) for n, m in base.modules.items()})
    asked: list[int] = []

    def spy(base: BaseModel, batch: Batch, columns: int) -> Batch:
        asked.append(columns)
        return read_ahead(base, batch, columns)

    monkeypatch.setattr(module, "batches", all_at_once)
    monkeypatch.setattr(module, "read_ahead", spy)
    base.room.pass_tokens = NEVER
    wholes = [capture(base, sequences, "answer")[0], capture(base, sequences, "answer", weights=weights)[0]]
    whole = capture_odds(base, weights, sequences, "answer")
    assert asked == []
    base.room.pass_tokens = 1
    parts = [capture(base, sequences, "answer")[0], capture(base, sequences, "answer", weights=weights)[0]]
    part = capture_odds(base, weights, sequences, "answer")
    first = min(max(s.read for s in sequences) - s.read + s.answer_start - 1 for s in sequences)
    assert asked == ([first] * 3 if base.shares_cache else [])
    assert first > 1
    torch.testing.assert_close(part.odds_Q, whole.odds_Q, rtol=1e-4, atol=1e-5)
    for found, expected in zip([*parts, part.captured], [*wholes, whole.captured], strict=True):
        for name, each in expected.items():
            torch.testing.assert_close(found[name].keys_TU, each.keys_TU, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(found[name].gradients_TV, each.gradients_TV, rtol=1e-3, atol=1e-6)


def test_any_number_of_columns_may_be_read_ahead(base: BaseModel) -> None:
    """Also those before which some sequences have nothing but padding."""
    sequences = edit_prompts(base, FACTS, edit_on_rephrasings=True).sequences
    whole = base.task.collate(base, sequences, range(len(sequences)))
    expected = answer_logits(base, whole)
    for columns in range(1, int(whole.column_A.min()) + 1):
        rest = read_ahead(base, whole, columns)
        assert rest.inputs["input_ids"].shape[1] == whole.inputs["input_ids"].shape[1] - columns
        torch.testing.assert_close(answer_logits(base, rest), expected, rtol=1e-9, atol=1e-11)


def test_only_what_takes_longer_than_a_pass_is_read_ahead(
    llama: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequences = [Encoded((5,) * 9, 7)] * 3  # six tokens of each stand in front of the edited ones
    asked: list[int] = []

    def spy(base: BaseModel, batch: Batch, columns: int) -> Batch:
        asked.append(columns)
        return read_ahead(base, batch, columns)

    monkeypatch.setattr(module, "read_ahead", spy)
    before = llama.room.pass_tokens
    try:
        for llama.room.pass_tokens in (19, 18):
            capture(llama, sequences, "answer")
    finally:
        llama.room.pass_tokens = before
    assert asked == [6]


def test_sequences_of_like_work_share_a_batch(llama: BaseModel) -> None:
    sequences = [Encoded((5,) * length, length - 1) for length in (6, 12, 12, 7)]
    before = llama.room.pass_tokens
    llama.room.pass_tokens = 2
    try:
        made = [batch.members for batch in batches(llama, sequences, learning=[3, 9, 3, 3])]
    finally:
        llama.room.pass_tokens = before
    assert made == [(0, 3), (2,), (1,)]
