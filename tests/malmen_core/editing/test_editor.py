"""Editors: one file that comes back bit for bit, and that says which base it is for."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from malmen_core.editing.edit import solve
from malmen_core.editing.editor import PAPER, PLAN_VERSION, Editor, EditPlan
from malmen_core.editing.hypernetwork import predict
from malmen_core.errors import DeltaCorrupt, EditorMismatch
from malmen_core.models.base import BaseModel
from malmen_core.models.delta import Delta
from malmen_core.serialization import pack, unpack
from tests.malmen_core.support import (
    FACTS,
    captured_rows,
    louder,
    random_statistics,
    tiny_base,
    tiny_editor,
    wrap,
)
from tests.tiny import tiny_llama


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
        assert solve(base, read, statistics).digest == solve(base, made, statistics).digest


def test_order_of_modules_survives() -> None:
    modules = tuple(f"model.layers.{i}.mlp.down_proj" for i in (2, 0, 1))
    other = wrap(louder(tiny_llama(3)), modules)
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


def test_regulariser_is_ridge_plus_weighted_prior(llama: BaseModel, editor: Editor) -> None:
    for name, form in editor.regularisers(llama.device, 1).items():
        expected = 5.0 * editor.moments[name].dense()
        expected.diagonal().add_(float(editor.network.ridge(name)))
        torch.testing.assert_close(form.matrix_UU, expected)


def rewritten(editor: Editor, plan: dict[str, Any]) -> bytes:
    """An editor's file with another plan in its header."""
    card, tensors = unpack("editor", editor.to_bytes())
    return pack("editor", {**card, "plan": plan}, tensors)


def test_a_plan_of_another_version_is_refused(single: tuple[BaseModel, Editor], tmp_path: Path) -> None:
    """Its members would mean something else here; files of the first releases name no version."""
    _, made = single
    plan = unpack("editor", made.to_bytes())[0]["plan"]
    unversioned = {name: value for name, value in plan.items() if name != "version"}
    for other, named in (({**plan, "version": PLAN_VERSION + 1}, PLAN_VERSION + 1), (unversioned, 1)):
        (tmp_path / "old").write_bytes(rewritten(made, other))
        with pytest.raises(EditorMismatch, match=f"of version {named},") as refused:
            Editor.load(tmp_path / "old")
        assert refused.value.field == "/editor"
        assert "Calibrate or train" in refused.value.remedy


def test_members_that_a_file_lacks_are_off(single: tuple[BaseModel, Editor]) -> None:
    """Never today's default."""
    _, made = single
    for name in ("prior_weight", "preserved_weight", "neighbours", "rounds", "margin"):
        plan = unpack("editor", made.to_bytes())[0]["plan"]
        assert getattr(EditPlan(), name) != 0
        del plan[name]
        read = Editor.from_bytes(rewritten(made, plan)).plan
        assert getattr(read, name) == 0
        assert replace(read, **{name: getattr(made.plan, name)}) == made.plan


def test_unknown_members_of_a_plan_are_refused(single: tuple[BaseModel, Editor]) -> None:
    plan = unpack("editor", single[1].to_bytes())[0]["plan"]
    with pytest.raises(DeltaCorrupt):
        Editor.from_bytes(rewritten(single[1], {**plan, "lanes": 3}))


def test_the_paper_s_plan_has_everything_off_that_the_paper_has_not() -> None:
    assert (PAPER.where, PAPER.noise) == ("answer", 1.0)
    assert all(value == 0 for name, value in asdict(PAPER).items() if name not in ("where", "noise"))


def test_the_prior_grows_with_the_rows() -> None:
    plan = EditPlan(prior_weight=100.0, prior_growth=10.0)
    assert [plan.prior_of(rows) for rows in (1, 10, 11, 200)] == [100.0, 100.0, 110.0, 2000.0]
    assert PAPER.prior_of(10**6) == 0
