"""A memory budget changes batches and nothing else; what does not fit is halved, or refused."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from malmen_core.editing.capture import capture, keys_at, keys_everywhere
from malmen_core.editing.covariance import second_moments
from malmen_core.editing.editor import Editor
from malmen_core.editing.goals import edit_goals
from malmen_core.errors import OutOfDeviceMemory
from malmen_core.generation.continuations import sample_continuations
from malmen_core.generation.greedy import greedy_answers
from malmen_core.models.base import BaseModel
from malmen_core.models.batching import batches, teacher_forced
from malmen_core.models.memory import CPU_TOKENS, MemoryBudget
from malmen_core.models.tokenization import Encoded, encode_prompts
from malmen_core.resources import openings
from malmen_core.training.meta_loss import LossWeights, meta_loss, prepare_batch
from tests.malmen_core.support import FACTS, assert_untouched, snapshot, statistics_of, tiny_editor
from tests.tiny import save_tiny
from tests.tiny_tasks import save_tiny_task

OPENINGS = sorted(openings(), key=len)[:66]
close = partial(torch.testing.assert_close, rtol=1e-7, atol=1e-9)
"""As float64 sums that are taken in another order, through all rounds of refinement."""


@contextmanager
def scarce(base: BaseModel, sequences: int) -> Iterator[list[int]]:
    """Let the model's passes fail as a full device does when a batch has more than so many sequences."""
    sizes: list[int] = []

    def check(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        sizes.append(len(kwargs["input_ids"]))
        if sizes[-1] > sequences:
            raise torch.OutOfMemoryError("the device is full")

    handle = base.model.register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield sizes
    finally:
        handle.remove()


def activation_bytes(base: BaseModel) -> int:
    return base._activation_bytes()


def budgeted(base: BaseModel, limit: int | None) -> MemoryBudget:
    """What a base loaded with a budget would have."""
    return MemoryBudget(base.device, limit, 1 if limit is None else activation_bytes(base))


def with_budget(base: BaseModel, budget: int | None) -> BaseModel:
    """The same base under another budget."""
    base.memory = budgeted(base, budget)
    return base


@pytest.fixture
def editor(llama: BaseModel) -> Editor:
    return tiny_editor(llama, where="answer", rounds=8)


@pytest.fixture(autouse=True)
def unbounded(llama: BaseModel) -> Iterator[None]:
    yield
    llama.memory = budgeted(llama, None)
    llama.lower_layers._kept.clear()


def test_without_a_budget_batches_are_as_large_as_is_fast(llama: BaseModel) -> None:
    assert llama.memory.tokens == CPU_TOKENS


def test_a_budget_gives_the_size_of_a_batch(llama: BaseModel) -> None:
    needed = activation_bytes(llama)
    llama.memory = budgeted(llama, 2 * 10 * needed)
    assert llama.memory.tokens == 10
    assert budgeted(llama, 10**15).tokens == CPU_TOKENS
    sequences = edit_goals(llama, FACTS).sequences
    sizes = [len(batch.members) for batch in batches(llama, sequences)]
    assert max(sizes) < len(sequences)
    assert all(
        len(batch.members) == 1 or batch.inputs["input_ids"].numel() <= 10
        for batch in batches(llama, sequences)
    )


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_activations_are_counted_for_every_task(tmp_path: Path, kind: str) -> None:
    folder = save_tiny_task(tmp_path / kind, kind)
    single = activation_bytes(BaseModel.load(str(folder), device="cpu", dtype="float32"))
    double = activation_bytes(BaseModel.load(str(folder), device="cpu", dtype="float64"))
    assert single > 0
    assert 1.5 < double / single <= 2.1


def test_activations_are_counted_from_the_first_edited_module_on(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "tiny")
    counts = [
        activation_bytes(
            BaseModel.load(str(folder), device="cpu", modules=[f"model.layers.{i}.mlp.down_proj"])
        )
        for i in (0, 3)
    ]
    assert counts[0] > 2 * counts[1]


def test_statistics_do_not_depend_on_the_budget(llama: BaseModel, editor: Editor) -> None:
    before = snapshot(llama)
    needed = activation_bytes(llama)
    found = [
        statistics_of(with_budget(llama, budget), editor, FACTS)
        for budget in (None, 2 * 12 * needed, 2 * needed)
    ]
    for other in found[1:]:
        for name, rows in found[0].modules.items():
            close(other.modules[name].keys_TU, rows.keys_TU)
            close(other.modules[name].differences_TV, rows.differences_TV)
    assert_untouched(llama, before)


def test_a_full_device_halves_batches_until_they_fit(llama: BaseModel, editor: Editor) -> None:
    sequences = edit_goals(llama, FACTS).sequences
    before = teacher_forced(llama, sequences), capture(llama, sequences, "answer")
    with scarce(llama, 2) as sizes:
        scores, captured = teacher_forced(llama, sequences), capture(llama, sequences, "answer")
    assert sizes[0] > 2
    assert sizes[-1] <= 2
    assert llama.memory.tokens < CPU_TOKENS
    for after, unhurried in zip(scores, before[0], strict=True):
        close(after.margin_A, unhurried.margin_A)
    for name, gradients_TV in before[1].gradients.items():
        close(captured.gradients[name], gradients_TV)


def keys_of_openings(base: BaseModel) -> dict[str, Tensor]:
    return keys_everywhere(
        base, [Encoded(tuple(i), len(i)) for i in encode_prompts(base.tokenizer, OPENINGS)]
    )


def moments_of_openings(base: BaseModel) -> dict[str, Tensor]:
    texts = [Encoded(tuple(ids), len(ids)) for ids in encode_prompts(base.tokenizer, OPENINGS)]
    return {name: found.product_US for name, found in second_moments(base, texts).items()}


def greedy_ids(base: BaseModel) -> dict[str, Tensor]:
    found = greedy_answers(
        base, encode_prompts(base.tokenizer, OPENINGS), [n % 3 + 3 for n in range(len(OPENINGS))]
    )
    return {text: torch.tensor(ids) for text, ids in zip(OPENINGS, found, strict=True)}


def sampled_ids(base: BaseModel) -> dict[str, Tensor]:
    found = sample_continuations(base, OPENINGS, tokens=5, seed=1)
    return {text: torch.tensor(each.ids) for text, each in zip(OPENINGS, found, strict=True)}


def keys_at_ends(base: BaseModel) -> dict[str, Tensor]:
    ids = encode_prompts(base.tokenizer, OPENINGS)
    return keys_at(base, [Encoded(tuple(i), len(i)) for i in ids], [[len(i) - 1] for i in ids])


FORWARD_PASSES = (keys_at_ends, keys_of_openings, moments_of_openings, greedy_ids, sampled_ids)


@pytest.mark.parametrize("run", FORWARD_PASSES)
def test_a_pass_that_goes_forward_is_halved_too(
    llama: BaseModel, run: Callable[[BaseModel], dict[str, Tensor]]
) -> None:
    plain = run(llama)
    with scarce(llama, 20) as sizes:
        found = run(llama)
    assert max(sizes) > 20
    assert sizes[-1] <= 20
    assert list(found) == list(plain)
    for name, value in plain.items():
        close(found[name], value)
    with scarce(llama, 0), pytest.raises(OutOfDeviceMemory, match="does not fit"):
        run(llama)


@pytest.mark.parametrize("run", FORWARD_PASSES)
def test_a_pass_that_goes_forward_keeps_to_the_budget(
    llama: BaseModel, run: Callable[[BaseModel], dict[str, Tensor]]
) -> None:
    plain = run(llama)
    with_budget(llama, 2 * 20 * activation_bytes(llama))
    shortest = min(len(ids) for ids in encode_prompts(llama.tokenizer, OPENINGS))
    with scarce(llama, sys.maxsize) as sizes:
        found = run(llama)
    assert 1 < max(sizes) <= llama.memory.forward_tokens // shortest
    for name, value in plain.items():
        close(found[name], value)


def test_keys_of_a_prior_are_kept_as_the_budget_has_it(
    llama: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []

    def spy(base: BaseModel, some: Sequence[Encoded]) -> dict[str, Tensor]:
        kept.append(sum(len(each.ids) for each in some))
        return keys_everywhere(base, some)

    monkeypatch.setattr("malmen_core.editing.covariance.keys_everywhere", spy)
    with_budget(llama, 2 * 20 * activation_bytes(llama))
    moments_of_openings(llama)
    assert llama.memory.forward_tokens / 2 < max(kept) <= llama.memory.forward_tokens


def test_with_room_for_all_samples_are_those_of_transformers(llama: BaseModel) -> None:
    """What editors were made from stays what it was: batches of 64, drawn by torch's own generator."""
    ids = encode_prompts(llama.tokenizer, OPENINGS)
    order = sorted(range(len(ids)), key=lambda i: (len(ids[i]), i))
    expected: dict[int, list[int]] = {}
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(1)
        for first in range(0, len(order), 64):
            chosen = order[first : first + 64]
            sampling: dict[str, Any] = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
            written = llama.task.generate(
                llama.model,
                [ids[i] for i in chosen],
                llama.pad_id,
                min_new_tokens=5,
                max_new_tokens=5,
                **sampling,
            )
            expected |= dict(zip(chosen, written, strict=True))
    before = torch.random.get_rng_state()
    found = sample_continuations(llama, OPENINGS, tokens=5, seed=1)
    assert [list(each.answer) for each in found] == [expected[i] for i in range(len(ids))]
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_meta_loss_that_is_begun_anew_counts_no_gradient_twice(llama: BaseModel) -> None:
    batch = prepare_batch(llama, FACTS, LossWeights())
    outcomes, gradients = [], []
    for limit in (100, 2):
        weights = {n: m.weight_UV.clone().requires_grad_() for n, m in llama.modules.items()}
        with scarce(llama, limit):
            outcomes.append(meta_loss(llama, weights, batch))
        gradients.append({name: weight.grad for name, weight in weights.items()})
    assert outcomes[0].loss == pytest.approx(outcomes[1].loss)
    for name, gradient in gradients[0].items():
        assert gradient is not None
        close(gradients[1][name], gradient)


def test_a_sequence_that_does_not_fit_is_refused(llama: BaseModel) -> None:
    with scarce(llama, 0), pytest.raises(OutOfDeviceMemory, match="does not fit"):
        teacher_forced(llama, edit_goals(llama, FACTS).sequences)


def test_a_budget_below_one_token_is_refused_at_once(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "tiny")
    with pytest.raises(OutOfDeviceMemory, match="does not hold one token") as caught:
        BaseModel.load(str(folder), device="cpu", memory_budget=100)
    assert caught.value.field == "/memory_budget"


def test_statistics_leave_the_device_when_they_exceed_their_half() -> None:
    meta = torch.device("meta")
    assert MemoryBudget(meta, None, 1).device_for(10**15) == meta
    for limit, place in ((2000, "meta"), (1998, "cpu")):
        assert MemoryBudget(meta, limit, 1).device_for(1000).type == place
