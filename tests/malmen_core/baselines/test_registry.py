"""Each baseline against a property of its paper, on tiny float64 models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from malmen_core.baselines.finetuning import FineTuning
from malmen_core.baselines.malmen_paper import PlainMalmen
from malmen_core.baselines.memit import Memit, MemitMethod
from malmen_core.baselines.memit_targets import optimise, prepare_prompts, take_keys
from malmen_core.baselines.mend import Mend, summed_shift
from malmen_core.baselines.registry import BASELINES, TRAINABLE, baseline, modules_for, rule_of, trained
from malmen_core.baselines.ultraedit import TrainingFree
from malmen_core.editing.capture import Captured, capture
from malmen_core.editing.editor import PAPER, Editor, EditPlan
from malmen_core.editing.goals import edit_goals
from malmen_core.errors import EditorMismatch, NotFiniteError, UnknownSetting
from malmen_core.evaluation.methods import Baseline, Method
from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel
from malmen_core.models.batching import teacher_forced
from malmen_core.models.delta import Delta
from malmen_core.models.overlay import Weights
from malmen_core.models.tokenization import Encoded
from tests.malmen_core.support import FACTS, assert_untouched, shift, snapshot, tiny_base
from tests.tiny import save_tiny

QUICK: Mapping[str, Baseline] = {
    "ft": FineTuning(rate=5e-3, bound=0.05, epochs=8, batch_facts=2),
    "mend": Mend(step=0.05),
    "memit": Memit(prior_weight=0.5, steps=15, rate=0.2, prefixes=2, bound=2.0),
    "malmen-plain": PlainMalmen(step=0.3, ridge=0.1),
    "training-free": TrainingFree(step=0.02, ridge=0.1),
}


@pytest.fixture(scope="module")
def methods(llama: BaseModel) -> dict[str, Method]:
    return {name: quick.prepare(llama) for name, quick in QUICK.items()}


def loss(base: BaseModel, delta: Delta, facts: tuple[Fact, ...] = FACTS) -> float:
    """Mean loss of the targets, in nats a fact."""
    with base.version(delta).active():
        scores = teacher_forced(base, edit_goals(base, facts).sequences)
    return sum(float(score.nll_A.sum()) for score in scores) / len(scores)


def zeros(base: BaseModel) -> dict[str, Tensor]:
    return {name: torch.zeros(m.shape, dtype=torch.float64) for name, m in base.modules.items()}


def some_shifts(base: BaseModel) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        name: 0.05 * torch.randn(m.shape, dtype=torch.float64, generator=generator)
        for name, m in base.modules.items()
    }


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_edits_and_leaves_the_base_alone(
    llama: BaseModel, methods: Mapping[str, Method], name: str
) -> None:
    before = snapshot(llama)
    delta = methods[name].edit(llama, [FACTS])
    assert loss(llama, delta) < loss(llama, Delta.empty())
    assert methods[name].edit(llama, [FACTS]).digest == delta.digest
    assert_untouched(llama, before)
    assert methods[name].name == name


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_edits_set_after_set(
    llama: BaseModel, methods: Mapping[str, Method], name: str
) -> None:
    first, both = (methods[name].edit(llama, sets) for sets in ([FACTS[:2]], [FACTS[:2], FACTS[2:]]))
    assert loss(llama, both, FACTS[2:]) < loss(llama, first, FACTS[2:])


def test_gpt2_too(gpt2: BaseModel) -> None:
    for quick in QUICK.values():
        assert loss(gpt2, quick.prepare(gpt2).edit(gpt2, [FACTS])) < loss(gpt2, Delta.empty())


def capture_present(base: BaseModel, shifts: Mapping[str, Tensor], sequences: Sequence[Encoded]) -> Captured:
    return capture(base, sequences, "answer", weights=Weights.shifted(base.modules, shifts))


def test_keys_and_gradients_at_the_present_weights(base: BaseModel) -> None:
    """Without a shift they are the base's; with one, those of a model with these weights."""
    sequences = edit_goals(base, FACTS).sequences
    on_base = capture(base, sequences, "answer")
    found = capture_present(base, zeros(base), sequences)
    for name in base.modules:
        torch.testing.assert_close(found.keys[name], on_base.keys[name])
        torch.testing.assert_close(found.gradients[name], on_base.gradients[name])
    shifts = some_shifts(base)
    merged = tiny_base(base.info.architecture, tied=base.model.config.tie_word_embeddings)
    for name, module in merged.modules.items():
        module.weight_UV.add_(shifts[name])
    expected, shifted = capture(merged, sequences, "answer"), capture_present(base, shifts, sequences)
    for name in base.modules:
        torch.testing.assert_close(shifted.keys[name], expected.keys[name])
        torch.testing.assert_close(shifted.gradients[name], expected.gradients[name])
        assert not torch.allclose(shifted.gradients[name], found.gradients[name])


# fine-tuning


@pytest.mark.parametrize("bound", [1e-3, 0.02])
def test_fine_tuning_respects_its_bound(llama: BaseModel, bound: float) -> None:
    tuning = replace(FineTuning(rate=5e-3, epochs=6, stop=0.0), bound=bound)
    change = shift(tuning.edit(llama, [FACTS]))
    largest = max(float(c.abs().max()) for c in change.values())
    assert largest == pytest.approx(bound, rel=1e-6)  # the bound is felt, and kept
    twice = shift(tuning.edit(llama, [FACTS, FACTS]))
    assert bound < max(float(c.abs().max()) for c in twice.values()) <= 2 * bound * (1 + 1e-6)


def test_fine_tuning_stops_when_the_facts_are_in(llama: BaseModel) -> None:
    def run(stop: float) -> tuple[int, Delta]:
        epochs: list[int] = []
        tuning = FineTuning(rate=5e-3, bound=1.0, epochs=40, stop=stop)
        delta = tuning.edit(llama, [FACTS[:1]], lambda _stage, done, _total: epochs.append(done))
        return epochs[-1], delta

    sequence = edit_goals(llama, FACTS[:1]).sequences[0]
    tokens = len(sequence.answer) + int(sequence.closed)
    enough = 0.8 * loss(llama, Delta.empty(), FACTS[:1])
    epochs, delta = run(enough / tokens)
    assert 1 < epochs < 40
    assert loss(llama, delta, FACTS[:1]) < enough
    assert run(0.0)[0] == 40


# MEND


def test_mend_s_shift_is_a_sum_of_rank_one_terms_of_its_facts(llama: BaseModel) -> None:
    method = Mend(step=0.05).prepare(llama)
    alone = [shift(method.edit(llama, [[fact]])) for fact in FACTS]
    together = shift(method.edit(llama, [FACTS]))
    rows = len(capture_present(llama, zeros(llama), edit_goals(llama, FACTS[:2]).sequences).sequence_T)
    pair = shift(method.edit(llama, [FACTS[:2]]))
    for name, change in together.items():
        torch.testing.assert_close(
            sum(part[name] for part in alone[1:]) + alone[0][name], change, rtol=1e-4, atol=1e-6
        )
        assert torch.linalg.matrix_rank(pair[name], rtol=1e-4) <= rows


def test_untrained_mend_is_a_normalised_gradient_step(llama: BaseModel) -> None:
    network = Mend(step=0.05).editor(llama).network
    seen = capture(llama, edit_goals(llama, FACTS).sequences, "answer")
    for name in llama.modules:
        keys = network.key_moments[name].normalise(seen.keys[name])
        gradients = network.gradient_moments[name].normalise(seen.gradients[name])
        outer = torch.einsum("tu,tv->uv", keys, gradients)
        expected = -0.05 / keys.shape[1] * outer
        torch.testing.assert_close(summed_shift(network, name, seen).double(), expected, rtol=1e-3, atol=1e-5)


# MEMIT


@pytest.fixture(scope="module")
def memit(methods: Mapping[str, Method]) -> MemitMethod:
    method = methods["memit"]
    assert isinstance(method, MemitMethod)
    return method


def test_memit_solves_the_normal_equation_with_the_covariance(llama: BaseModel, memit: MemitMethod) -> None:
    """``(c C0 + K'K) S = K'R`` at each layer, with keys and states at the weights of the layers before."""
    prompts = prepare_prompts(llama, FACTS, memit.prefixes)
    targets = memit.targets(llama, prompts, zeros(llama))
    found = memit.spread(llama, prompts, targets, zeros(llama))
    own = zeros(llama)
    for left, name in zip((2, 1), llama.modules, strict=True):
        keys, hidden = take_keys(llama, Weights.shifted(llama.modules, own), prompts, name)
        residual = (targets - hidden) / left
        matrix = memit._ridge(name, keys)._regulariser.matrix_UU + keys.T @ keys
        torch.testing.assert_close(matrix @ found[name], keys.T @ residual, rtol=1e-6, atol=1e-8)
        own[name] = found[name]


def test_memit_reaches_its_targets_when_nothing_holds_it_back(llama: BaseModel, memit: MemitMethod) -> None:
    """With no covariance and a prompt alone, the last layer's state at the subject becomes ``z``."""
    free = Memit(prior_weight=0.0, prefixes=0, steps=15, rate=0.2, bound=2.0).prepare(llama)
    assert isinstance(free, MemitMethod)
    prompts = prepare_prompts(llama, FACTS, free.prefixes)
    targets = free.targets(llama, prompts, zeros(llama))
    shifts = free.spread(llama, prompts, targets, zeros(llama))
    last = list(llama.modules)[-1]
    _, before = take_keys(llama, Weights.shifted(llama.modules, zeros(llama)), prompts, last)
    _, after = take_keys(llama, Weights.shifted(llama.modules, shifts), prompts, last)
    assert (after - targets).norm() < 0.02 * (before - targets).norm()


def test_memit_s_targets_make_the_model_say_the_answer_within_their_bound(
    llama: BaseModel, memit: MemitMethod
) -> None:
    prompts = prepare_prompts(llama, FACTS, ("",))
    present = Weights.shifted(llama.modules, zeros(llama))
    _, hidden = take_keys(llama, present, prompts, list(llama.modules)[-1])
    for bound in (0.1, 2.0):
        plan = replace(memit.plan, bound=bound, steps=10)
        delta = optimise(llama, present, prompts, hidden, plan)
        share = delta.norm(dim=1) / hidden.norm(dim=1)
        assert float(share.max()) <= bound * (1 + 1e-6)
        assert float(share.min()) > 0


def test_memit_reads_the_state_behind_the_layer(llama: BaseModel) -> None:
    prompts = prepare_prompts(llama, FACTS, ("", "Water. "))
    name = list(llama.modules)[-1]
    keys, hidden = take_keys(llama, Weights.shifted(llama.modules, zeros(llama)), prompts, name)
    for number, start in enumerate(prompts.plain):
        placed = prompts.requests[start]
        ids = torch.tensor([placed.sequence.ids])
        states = llama.model(input_ids=ids, output_hidden_states=True).hidden_states
        torch.testing.assert_close(hidden[number], states[2][0, placed.position])
    alone, _ = take_keys(
        llama, Weights.shifted(llama.modules, zeros(llama)), prepare_prompts(llama, FACTS, ("",)), name
    )
    assert not torch.allclose(keys, alone)
    assert (
        prompts.requests[prompts.plain[2]].position
        == prompts.requests[prompts.plain[2]].sequence.answer_start - 1
    )


def test_memit_edits_at_one_token_whether_the_subject_is_given_or_found(llama: BaseModel) -> None:
    prefixes = ("", "Water. ", "Seven days. ")
    given = prepare_prompts(llama, FACTS[:2], prefixes)
    found = prepare_prompts(llama, [replace(fact, subject=None) for fact in FACTS[:2]], prefixes)
    assert found == given
    assert len(given.essences) == 2
    assert all(placed.position < placed.sequence.answer_start - 1 for placed in given.requests)


# the paper's own form, and the training-free one


def test_plain_malmen_is_the_primal_solution_with_lambda_alone(llama: BaseModel) -> None:
    plain = PlainMalmen(step=0.3, ridge=0.7)
    editor = plain.editor(llama)
    assert editor.plan == PAPER
    seen = capture(llama, edit_goals(llama, FACTS).sequences, "answer")
    found = shift(plain.prepare(llama).edit(llama, [FACTS]))
    for name in llama.modules:
        keys = seen.keys[name].double()
        normal = editor.network.gradient_moments[name].normalise(seen.gradients[name].double())
        square = editor.network.key_moments[name].normalise(keys).pow(2).mean(1, keepdim=True)
        differences = -0.3 * square * normal
        matrix = keys.T @ keys + 0.7 * torch.eye(keys.shape[1], dtype=torch.float64)
        expected = torch.linalg.solve(matrix, keys.T @ differences)
        torch.testing.assert_close(found[name], expected, rtol=1e-2, atol=1e-3)  # rows are stored as float16


def test_training_free_is_the_closed_form_with_running_statistics(llama: BaseModel) -> None:
    """The second set is normalised by the statistics of both, and its keys are taken after the first."""
    method = TrainingFree(step=0.02, ridge=0.5)
    sets = [FACTS[:2], FACTS[2:]]
    first = shift(method.edit(llama, sets[:1]))
    found = shift(method.edit(llama, sets))
    one = capture_present(llama, zeros(llama), edit_goals(llama, sets[0]).sequences)
    two = capture_present(llama, first, edit_goals(llama, sets[1]).sequences)
    for name in llama.modules:
        keys = torch.cat([one.keys[name], two.keys[name]])
        gradients = torch.cat([one.gradients[name], two.gradients[name]])
        own = two.keys[name]
        normal_keys = (own - keys.mean(0)) / keys.std(0, correction=0)
        values = (two.gradients[name] - gradients.mean(0)) / gradients.std(0, correction=0)
        values = -0.02 * normal_keys.pow(2).sum(1, keepdim=True) * values
        matrix = own.T @ own + 0.5 * torch.eye(own.shape[1], dtype=torch.float64)
        expected = first[name] + torch.linalg.solve(matrix, own.T @ values)
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-5)


# choosing them


def test_baselines_are_found_by_name_and_tuned_by_settings() -> None:
    assert baseline("ft", {"bound": 0.5}) == FineTuning(bound=0.5)
    with pytest.raises(UnknownSetting, match="no baseline 'rome'"):
        baseline("rome")
    assert baseline("memit", {"prior_weight": 0, "depth_share": 1, "kl": 0}).layers(30)[-1] == 29
    with pytest.raises(UnknownSetting, match="'ft' has no setting 'speed'") as refused:
        baseline("ft", {"speed": 1})
    assert "rate, bound, epochs" in refused.value.remedy


@pytest.mark.parametrize(
    ("name", "setting", "value", "wanted"),
    [
        ("ft", "bound", "large", "a number above 0"),
        ("ft", "epochs", 2.5, "a whole number from 1 on"),
        ("ft", "batch_facts", 0, "a whole number from 1 on"),
        ("ft", "depth_share", 1.5, "at most 1"),
        ("ft", "stop", float("nan"), "a number from 0 on"),
        ("ft", "rate", float("inf"), "a number above 0"),
        pytest.param("ft", "rate", 10**400, "a number above 0", id="ft-rate-huge"),
        ("ft", "seed", 2**63, "a whole number from 0 on, at most"),
        ("mend", "last", 1.5, "a whole number from 1 on"),
        ("mend", "step", -1, "a number above 0"),
        ("malmen-plain", "ridge", 0, "a number above 0"),
        ("memit", "steps", True, "a whole number from 1 on"),
        ("memit", "prefixes", 6, "at most 5"),
        ("training-free", "step", [1], "a number above 0"),
    ],
)
def test_a_setting_has_a_type_and_a_range(name: str, setting: str, value: object, wanted: str) -> None:
    with pytest.raises(UnknownSetting, match=f"'{name}' has no setting '{setting}'") as refused:
        baseline(name, {setting: value})
    assert wanted in refused.value.remedy
    assert refused.value.field == f"/settings/{setting}"


@pytest.mark.parametrize(("name", "setting"), [("ft", "count"), ("memit", "count"), ("mend", "last")])
def test_no_more_layers_are_edited_than_there_are(tmp_path: Path, name: str, setting: str) -> None:
    model = str(save_tiny(tmp_path / "tiny"))
    assert len(modules_for(baseline(name, {setting: 4}), model)) == 4
    assert modules_for(baseline(name), model)
    with pytest.raises(UnknownSetting, match=f"has no setting '{setting}' that could be 5") as refused:
        modules_for(baseline(name, {setting: 5}), model)
    assert "at most 4" in refused.value.remedy


@pytest.mark.parametrize(
    ("name", "layers"), [("malmen-plain", (24, 29)), ("mend", (27, 29)), ("ft", (13, 13))]
)
def test_edited_layers(name: str, layers: tuple[int, int]) -> None:
    found = baseline(name).layers(30)
    assert (found[0], found[-1]) == layers
    assert baseline("memit").layers(30) == (5, 6, 7, 8, 9, 10)
    assert all(0 <= i < 3 for kind in BASELINES.values() for i in kind().layers(3))


def test_only_what_can_be_trained_takes_an_editor(llama: BaseModel) -> None:
    for name in BASELINES:
        chosen = baseline(name)
        if isinstance(chosen, TRAINABLE):
            editor: Editor = chosen.editor(llama)
            assert editor.plan == PAPER
            assert trained(chosen, editor, llama).settings["editor"] == editor.digest
            with pytest.raises(EditorMismatch):
                trained(chosen, replace(editor, base_digest="sha256:other"), llama)
        else:
            with pytest.raises(EditorMismatch, match="is not trained"):
                trained(chosen, PlainMalmen().editor(llama), llama)


@pytest.mark.parametrize("kind", TRAINABLE)
def test_a_baseline_takes_no_other_editor(llama: BaseModel, kind: type[Mend | PlainMalmen]) -> None:
    chosen = kind()
    own = chosen.editor(llama)
    for fitting in (own, replace(own, card={"rule": rule_of(chosen.name).name})):
        assert trained(chosen, fitting, llama).name == chosen.name
    other = rule_of("mend" if chosen.name == "malmen-plain" else "malmen-plain").name
    for editor, part in (
        (replace(own, plan=EditPlan()), "plan"),
        (replace(own, plan=replace(PAPER, prior_weight=1.0)), "plan"),
        (replace(own, card={"rule": other}), "rule"),
    ):
        with pytest.raises(EditorMismatch, match=f"differs in: {part}\\.") as refused:
            trained(chosen, editor, llama)
        assert refused.value.field == "/editor"
        assert f"errata train --baseline {chosen.name}" in refused.value.remedy


def test_an_edit_that_overflows_is_said(llama: BaseModel) -> None:
    with pytest.raises(NotFiniteError):
        TrainingFree(step=float("inf")).edit(llama, [FACTS])
