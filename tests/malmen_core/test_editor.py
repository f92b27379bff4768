"""Editors: one file that comes back bit for bit, and that says which base it is for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from malmen_core.editing.edit import solve
from malmen_core.editing.editor import Editor, EditPlan
from malmen_core.editing.hypernetwork import predict
from malmen_core.errors import DeltaCorrupt, EditorMismatch
from malmen_core.models.base import BaseModel
from malmen_core.models.delta import Delta
from tests.malmen_core.support import FACTS, captured_rows, random_statistics, tiny_base, tiny_editor


@pytest.fixture(scope="module")
def single() -> tuple[BaseModel, Editor]:
    """A float32 base with an editor that was moved away from its initial value."""
    base = tiny_base(dtype=torch.float32)
    made = tiny_editor(base, rounds=3)
    generator = torch.Generator().manual_seed(1)
    for parameter in made.network.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return base, made


def test_round_trip_is_bit_for_bit(single: tuple[BaseModel, Editor], tmp_path: Path) -> None:
    base, made = single
    made.save(tmp_path / "e.safetensors")
    for read in (Editor.from_bytes(made.to_bytes()), Editor.load(tmp_path / "e.safetensors")):
        assert read.to_bytes() == made.to_bytes()
        assert read.digest == made.digest
        assert (read.plan, read.card, read.scales, read.modules) == (
            made.plan,
            made.card,
            made.scales,
            made.modules,
        )
        keys, gradients = captured_rows(base, FACTS, "subject")
        before, after = predict(made.network, keys, gradients), predict(read.network, keys, gradients)
        assert all(torch.equal(before[name], after[name]) for name in made.modules)
        statistics = random_statistics(0, made.network.shapes)
        assert solve(read, statistics).digest == solve(made, statistics).digest


def test_order_of_modules_survives(llama: BaseModel) -> None:
    modules = tuple(f"model.layers.{i}.mlp.down_proj" for i in (2, 0, 1))
    shuffled = tiny_base(dtype=torch.float32)
    other = BaseModel(shuffled.model, shuffled.tokenizer, replace(shuffled.info, modules=modules))
    assert Editor.from_bytes(tiny_editor(other).to_bytes()).modules == modules


def test_other_content_has_another_digest(single: tuple[BaseModel, Editor]) -> None:
    _, made = single
    digests = {
        made.digest,
        replace(made, card={"kind": "other"}).digest,
        replace(made, plan=EditPlan("answer")).digest,
        replace(made, scales=dict.fromkeys(made.scales, 2.0)).digest,
        replace(made, moments={}).digest,
    }
    assert len(digests) == 5
    assert replace(made).digest == made.digest


def test_it_fits_its_base_and_no_other(editor: Editor, llama: BaseModel) -> None:
    editor.check_fits(llama.info)
    for other in (
        replace(llama.info, digest="sha256:other"),
        replace(llama.info, architecture="gpt2"),
        replace(llama.info, modules=llama.info.modules[:1]),
        replace(llama.info, modules=llama.info.modules[::-1]),
    ):
        with pytest.raises(EditorMismatch) as refused:
            editor.check_fits(other)
        assert refused.value.field == "/editor"


def test_other_bytes_are_refused(single: tuple[BaseModel, Editor]) -> None:
    data = single[1].to_bytes()
    for damaged in (b"", b"garbage", data[:100], data[:-1], Delta.empty().to_bytes()):
        with pytest.raises(DeltaCorrupt):
            Editor.from_bytes(damaged)


def test_a_missing_or_foreign_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(EditorMismatch) as missing:
        Editor.load(tmp_path / "none")
    assert missing.value.field == "/editor"
    (tmp_path / "delta").write_bytes(Delta.empty().to_bytes())
    with pytest.raises(EditorMismatch):
        Editor.load(tmp_path / "delta")


def test_regulariser_is_ridge_plus_weighted_prior(editor: Editor) -> None:
    for name, form in editor.regularisers.items():
        expected = 5.0 * editor.moments[name].dense()
        expected.diagonal().add_(float(editor.network.ridge(name)))
        torch.testing.assert_close(form.matrix_UU, expected)


def test_many_facts_are_solved_with_a_heavier_prior(editor: Editor) -> None:
    editor = replace(editor, plan=replace(editor.plan, prior_growth=6.0))
    for name, (inputs, _) in editor.network.shapes.items():
        assert editor.plan.prior_factor(inputs // 3, inputs) == 1.0
        assert editor.plan.prior_factor(inputs, inputs) == 5.0
        expected = 5.0 * 5.0 * editor.moments[name].dense()
        expected.diagonal().add_(float(editor.network.ridge(name)))
        torch.testing.assert_close(editor.regularisers_of(inputs)[name].matrix_UU, expected)
    assert editor.regularisers_of(1) is editor.regularisers
    one = replace(editor, plan=replace(editor.plan, prior_growth=0.0))
    assert one.regularisers_of(1_000_000) is one.regularisers
