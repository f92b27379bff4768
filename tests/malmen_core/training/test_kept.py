"""What is computed once for each fact is what would be computed anew, and is read again after a stop."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from malmen_core.editing.capture import capture
from malmen_core.editing.editor import PAPER, Editor
from malmen_core.models.base import BaseModel
from malmen_core.models.batching import answer_logits, batches, mixed_precision
from malmen_core.training import kept
from malmen_core.training.kept import KeptFacts
from malmen_core.training.meta_gradient import EditInputs, meta_gradient
from malmen_core.training.meta_loss import LossWeights, prepare_batch
from tests.malmen_core.training.meta import FACTS, stirred_network, tiny_base
from tests.tiny import tiny_llama

WEIGHTS = LossWeights(edit=0.7, rephrasings=1.3, locality=0.9)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "CHUNK", 3)


def gradients(base: BaseModel, kept_facts: KeptFacts | None, numbers: list[int]) -> dict[str, torch.Tensor]:
    """The meta-gradient of some facts, prepared anew or from what is kept."""
    network = stirred_network(base)
    some = [FACTS[number] for number in numbers]
    if kept_facts is None:
        base.lower_layers.forget()
        batch = prepare_batch(base, some, WEIGHTS)
        seen = capture(base, batch.edits, "answer")
    else:
        batch, seen = kept_facts.prepare(numbers, WEIGHTS)
    network.fit_normaliser(seen.keys, seen.gradients)
    scales = dict.fromkeys(base.modules, 1.0)
    start = Editor(base.info.architecture, "sha256:tiny", network, PAPER, {}, scales, {})
    found = {"loss": torch.tensor(meta_gradient(base, network, start, EditInputs(seen), batch).loss)}
    return found | {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("numbers", [[0], [3, 1], [2, 0, 3, 1]])
def test_the_meta_gradient_is_the_same(architecture: str, numbers: list[int], tmp_path: Path) -> None:
    base = tiny_base(architecture)
    wanted = gradients(base, None, numbers)
    found = gradients(base, KeptFacts(base, FACTS, "answer", tmp_path, 64), numbers)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.allclose(found[name], value, rtol=1e-7, atol=1e-10), name


def test_a_later_process_reads_what_was_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base()
    first = gradients(base, KeptFacts(base, FACTS, "answer", tmp_path, 64), [3, 0])
    monkeypatch.setattr(KeptFacts, "_compute", lambda *_: pytest.fail("computed again"))
    again = gradients(tiny_base(), KeptFacts(base, FACTS, "answer", tmp_path, 64), [3, 0])
    assert all(torch.equal(again[name], value) for name, value in first.items())


def test_steps_do_not_run_the_layers_below(tmp_path: Path) -> None:
    base = tiny_base()
    batch, _ = KeptFacts(base, FACTS, "answer", tmp_path, 64).prepare(range(len(FACTS)), WEIGHTS)
    runs: list[int] = []
    for number in (0, 1):  # the first edited layer is 1
        attention = base.model.model.layers[number].self_attn
        attention.register_forward_hook(lambda *_, number=number: runs.append(number))
    sequences = [*batch.targets, *batch.probes]
    for some in batches(base, sequences):
        answer_logits(base, sequences, some)
    assert set(runs) == {1}


def test_mixed_precision_leaves_weights_and_other_passes_alone() -> None:
    base = tiny_base(model=tiny_llama())
    sequences = [base.encode("The capital of Peru is", "Lima").opened()]
    (batch,) = batches(base, sequences)
    before = base.parameters_digest()
    whole = answer_logits(base, sequences, batch)
    with mixed_precision(True):
        mixed = answer_logits(base, sequences, batch)
    assert mixed.dtype == torch.float32
    assert not torch.equal(mixed, whole)
    assert torch.allclose(mixed, whole, atol=0.05 * float(whole.abs().max()))
    assert torch.equal(answer_logits(base, sequences, batch), whole)
    assert base.parameters_digest() == before
