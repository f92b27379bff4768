"""Layers below the first edited one are run once for a text, and nothing shows it but the time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from malmen_core.editing.capture import capture, keys_everywhere
from malmen_core.editing.goals import edit_goals
from malmen_core.models.base import BaseModel
from malmen_core.models.batching import teacher_forced
from malmen_core.models.lower_layers import LowerLayers
from malmen_core.models.overlay import Weights
from malmen_core.models.tokenization import Encoded
from tests.malmen_core.models.test_families import CAUSAL, checkpoint
from tests.malmen_core.support import FACTS, louder, wrap
from tests.tiny import tiny_gpt2, tiny_llama

EDITED = 2


def above(architecture: str = "llama", *, first: int = EDITED) -> BaseModel:
    """A float64 base of four layers that is edited from a middle one on."""
    model = tiny_gpt2(4) if architecture == "gpt2" else tiny_llama(4)
    name = "transformer.h.{}.mlp.c_proj" if architecture == "gpt2" else "model.layers.{}.mlp.down_proj"
    return wrap(louder(model).double(), [name.format(i) for i in range(first, 4)])


def layers(base: BaseModel) -> Sequence[torch.nn.Module]:
    found = base.model.transformer.h if base.info.architecture == "gpt2" else base.model.model.layers
    return list(found)


@contextmanager
def counted(base: BaseModel) -> Iterator[list[int]]:
    """How often the attention of each layer runs: what a layer that is passed by does not do."""
    counts = [0] * len(layers(base))
    handles = []
    for number, layer in enumerate(layers(base)):
        attention = layer.attn if base.info.architecture == "gpt2" else layer.self_attn

        def count(*_: object, number: int = number) -> None:
            counts[number] += 1

        handles.append(attention.register_forward_hook(count))  # type: ignore[union-attr]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def forgetful(base: BaseModel) -> BaseModel:
    """The same base, which keeps nothing."""
    base.lower_layers.usable = False
    return base


@pytest.mark.parametrize("first", ["capture", "scores"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_second_passes_are_those_of_whole_ones_and_run_no_lower_layer(architecture: str, first: str) -> None:
    base, plain = above(architecture), forgetful(above(architecture))
    sequences = edit_goals(base, FACTS, edit_on_rephrasings=True).sequences
    draw = torch.Generator().manual_seed(1)
    weights = Weights(
        {n: m.weight_UV + 0.1 * torch.randn(m.shape, generator=draw) for n, m in base.modules.items()}
    )
    if first == "capture":
        capture(base, sequences, "subject")
    else:  # without gradients, which the next pass over the same texts has
        teacher_forced(base, sequences)
    with counted(base) as counts:
        found = capture(base, sequences, "subject", weights=weights)
        scores = teacher_forced(base, sequences[::-1])
    expected = capture(plain, sequences, "subject", weights=weights)
    assert counts[:EDITED] == [0] * EDITED
    assert all(counts[EDITED:])
    for name in base.modules:
        torch.testing.assert_close(found.keys[name], expected.keys[name], rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(found.gradients[name], expected.gradients[name], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(found.nll_Q, expected.nll_Q)
    for one, other in zip(scores, teacher_forced(plain, sequences[::-1]), strict=True):
        torch.testing.assert_close(one.margin_A, other.margin_A, rtol=1e-9, atol=1e-11)


def test_a_batch_with_a_new_text_is_run_whole() -> None:
    base = above()
    known, new = Encoded((5, 6, 7, 8), 3), Encoded((5, 6, 9, 8), 3)
    teacher_forced(base, [known])
    with counted(base) as counts:
        teacher_forced(base, [known, new])
    assert counts == [1] * 4
    with counted(base) as counts:
        teacher_forced(base, [new, known])
    assert counts == [0, 0, 1, 1]


def test_what_is_kept_is_of_the_whole_text_that_is_read() -> None:
    """Of the same tokens, an answer's last one read or not, are two texts."""
    base = above()
    teacher_forced(base, [Encoded((5, 6, 7, 8), 3)])
    with counted(base) as counts:
        teacher_forced(base, [Encoded((5, 6, 7, 8), 3, closed=True)])
    assert counts == [1] * 4


def test_what_is_kept_is_bounded_and_the_oldest_goes_first() -> None:
    base = above()
    texts = [Encoded((number, 6, 7, 8), 3) for number in range(10, 20)]
    kept = 3 * 32 * 8  # bytes of one text: positions that are read, features, float64
    base.lower_layers._capacity = 3 * kept
    for text in texts:
        teacher_forced(base, [text])
    assert base.lower_layers._bytes == 3 * kept == sum(t.nbytes for t in base.lower_layers._kept.values())
    assert [ids[0] for ids in base.lower_layers._kept] == [17, 18, 19]
    teacher_forced(base, [texts[7]])  # used, so it stays
    teacher_forced(base, [texts[0]])
    assert [ids[0] for ids in base.lower_layers._kept] == [19, 17, 10]
    base.lower_layers._capacity = 0
    teacher_forced(base, texts)
    assert base.lower_layers._bytes == 0


def test_the_first_layer_edited_leaves_nothing_to_keep() -> None:
    base = above(first=0)
    teacher_forced(base, [Encoded((5, 6, 7, 8), 3)])
    assert base.lower_layers._kept == {}


def test_other_stacks_are_run_whole(t5: BaseModel, bert: BaseModel) -> None:
    for base in (t5, bert):
        assert not base.lower_layers.usable
        assert teacher_forced(base, [Encoded((5, 6, 7, 1), 3)]) is not None
    modules = ["a.layers.3.x", "b.layers.3.x"]
    assert not LowerLayers(torch.nn.Module(), modules).usable
    assert not LowerLayers(torch.nn.Module(), ["head"]).usable


def test_passes_that_read_no_text_are_left_alone() -> None:
    """Generation and keys of neighbours go through the whole model, also of a text that is known."""
    base = above()
    text = Encoded((5, 6, 7, 8), 4)
    teacher_forced(base, [text])
    with counted(base) as counts:
        base.model(input_ids=torch.tensor([[5, 6, 7, 8]]))
    assert counts == [1] * 4
    with counted(base) as counts:
        keys_everywhere(base, [text])
    assert counts[:EDITED] == [1] * EDITED


@pytest.mark.parametrize("kind", CAUSAL)
def test_every_family_gives_the_same_from_the_middle(kind: str, tmp_path: Path) -> None:
    """Those whose layers do not take and give one tensor are run whole."""
    folder = str(checkpoint(kind, tmp_path))
    modules = [BaseModel.load(folder, device="cpu").info.modules[-1]]
    base = BaseModel.load(folder, modules=modules, device="cpu", dtype="float32")
    sequences = edit_goals(base, FACTS).sequences
    first, again = teacher_forced(base, sequences), teacher_forced(base, sequences)
    plain = forgetful(BaseModel.load(folder, modules=modules, device="cpu", dtype="float32"))
    for one, two, whole in zip(first, again, teacher_forced(plain, sequences), strict=True):
        torch.testing.assert_close(one.margin_A, whole.margin_A, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(two.margin_A, whole.margin_A, rtol=1e-3, atol=1e-4)
