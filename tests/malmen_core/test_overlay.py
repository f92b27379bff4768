"""Versions: base plus delta, seen by one thread alone, on a base that is never written to."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from malmen_core.errors import EditorMismatch, NotFiniteError
from malmen_core.models.base import BaseModel
from malmen_core.models.delta import Change, Delta
from malmen_core.models.overlay import Version, intercepting, weights_digest
from tests.malmen_core.support import assert_untouched, snapshot, tiny_base

IDS = torch.tensor([[3, 14, 15, 92, 65]])


def delta(base: BaseModel, seed: int, size: float = 0.1) -> Delta:
    generator = torch.Generator().manual_seed(seed)
    changes = {}
    for name, module in base.modules.items():
        inputs, outputs = module.shape
        changes[name] = Change.smaller(
            size * torch.randn(inputs, 2, generator=generator), torch.randn(2, outputs, generator=generator)
        )
    return Delta(changes)


def logits(base: BaseModel) -> Tensor:
    with torch.inference_mode():
        found: Tensor = base.model(input_ids=IDS).logits.clone()
    return found


def under(base: BaseModel, version: Version) -> Tensor:
    with version.active():
        return logits(base)


def test_weights_are_base_plus_delta_exactly(base: BaseModel) -> None:
    made = delta(base, 1)
    version = base.version(made)
    for name, module in base.modules.items():
        expected = module.weight_UV + made.modules[name].dense(torch.float64)
        assert torch.equal(version.weights[name], expected)
    assert version.delta_digest == made.digest


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_sum_is_rounded_once(dtype: torch.dtype) -> None:
    base = tiny_base(dtype=dtype)
    version = base.version(delta(base, 1))
    for name, module in base.modules.items():
        change = delta(base, 1).modules[name].dense(torch.float64)
        assert torch.equal(version.weights[name], (module.weight_UV.double() + change).to(dtype))


def test_a_version_answers_as_a_model_with_those_weights(base: BaseModel) -> None:
    before = logits(base)
    version = base.version(delta(base, 1))
    merged = tiny_base(
        "gpt2" if base.info.architecture == "gpt2" else "llama",
        tied=base.model.config.tie_word_embeddings and base.info.architecture != "gpt2",
    )
    for name, module in merged.modules.items():
        weight = version.weights[name]
        module.module.weight.data = weight if base.info.architecture == "gpt2" else weight.T.contiguous()
    torch.testing.assert_close(under(base, version), logits(merged), rtol=1e-10, atol=1e-10)
    assert not torch.allclose(under(base, version), before)
    assert torch.equal(logits(base), before)


def test_the_empty_delta_is_the_base(base: BaseModel) -> None:
    version = base.version(Delta.empty())
    assert torch.equal(under(base, version), logits(base))
    zero = Delta({name: Change(dense_UV=torch.zeros(*m.shape)) for name, m in base.modules.items()})
    assert base.version(zero).weights_digest == version.weights_digest
    assert base.version(delta(base, 1)).weights_digest != version.weights_digest


def test_the_digest_is_of_the_effective_weights(llama: BaseModel) -> None:
    first, second = llama.modules
    part = Delta({second: delta(llama, 1).modules[second]})
    version = llama.version(part)
    effective = {first: llama.modules[first].weight_UV, second: version.weights[second]}
    assert version.weights_digest == weights_digest(effective)
    assert torch.equal(under(llama, version), under(llama, llama.version(part)))


def test_digest_tells_bits_shapes_dtypes_and_names_apart() -> None:
    x = torch.arange(6.0)
    digests = {
        weights_digest(w)
        for w in (
            {"a": x},
            {"b": x},
            {"a": x.reshape(2, 3)},
            {"a": x.reshape(2, 3).T},
            {"a": x.double()},
            {"a": x.nextafter(torch.tensor(9.0))},
            {"a": x, "b": x},
        )
    }
    assert len(digests) == 7
    assert weights_digest({"a": x.reshape(2, 3).T}) == weights_digest({"a": x.reshape(2, 3).T.contiguous()})


def test_the_base_is_untouched_also_after_an_exception(base: BaseModel) -> None:
    before, plain, digest = snapshot(base), logits(base), base.parameters_digest()
    version = base.version(delta(base, 1))

    def fail() -> None:
        with version.active():
            logits(base)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with pytest.raises(IndexError), version.active():
        base.model(input_ids=torch.tensor([[10**6]]))
    assert torch.equal(logits(base), plain)
    assert_untouched(base, before)
    assert base.parameters_digest() == digest


def test_the_digest_sees_a_single_changed_bit() -> None:
    """Negative control for every test that says the base is untouched."""
    base = tiny_base()
    before = base.parameters_digest()
    weight = next(iter(base.model.parameters())).data
    weight.view(torch.int64)[0, 0] ^= 1
    assert base.parameters_digest() != before


def test_versions_nest(llama: BaseModel) -> None:
    one, two = llama.version(delta(llama, 1)), llama.version(delta(llama, 2))
    base_logits, ones, twos = logits(llama), under(llama, one), under(llama, two)
    with one.active():
        with two.active():
            assert torch.equal(logits(llama), twos)
            with llama.version(Delta.empty()).active(), intercepting(None):
                assert torch.equal(logits(llama), base_logits)
        assert torch.equal(logits(llama), ones)


def test_two_threads_run_two_versions_at_the_same_time(llama: BaseModel) -> None:
    """Both are inside `active`, and inside the same forward pass, when the other one computes."""
    versions = [llama.version(delta(llama, seed)) for seed in (1, 2)]
    expected = [under(llama, version) for version in versions]
    plain = logits(llama)
    meet = threading.Barrier(3, timeout=20)
    found: dict[int, list[Tensor]] = {0: [], 1: []}
    failures: list[Exception] = []

    def guarded(run: Callable[[], None]) -> Callable[[], None]:
        def target() -> None:
            try:
                run()
            except (RuntimeError, AssertionError) as error:
                failures.append(error)
                meet.abort()

        return target

    def serve(which: int) -> Callable[[], None]:
        def run() -> None:
            with versions[which].active():
                for _ in range(10):
                    meet.wait()
                    found[which].append(logits(llama))

        return run

    threads = [threading.Thread(target=guarded(serve(which))) for which in (0, 1)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        meet.wait()
        assert torch.equal(logits(llama), plain)
    for thread in threads:
        thread.join(20)
    assert not failures
    for which in (0, 1):
        assert len(found[which]) == 10
        assert all(torch.equal(one, expected[which]) for one in found[which])
    assert not torch.equal(expected[0], expected[1])


def test_a_new_thread_sees_the_base(llama: BaseModel) -> None:
    plain, seen = logits(llama), []
    with llama.version(delta(llama, 1)).active():
        thread = threading.Thread(target=lambda: seen.append(logits(llama)))
        thread.start()
        thread.join()
    assert torch.equal(seen[0], plain)


def test_a_delta_of_another_model_is_refused(llama: BaseModel, gpt2: BaseModel) -> None:
    with pytest.raises(EditorMismatch):
        llama.version(delta(gpt2, 1))
    name = next(iter(llama.modules))
    with pytest.raises(EditorMismatch, match="down_proj"):
        llama.version(Delta({name: Change(dense_UV=torch.zeros(3, 3))}))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_delta_that_is_not_finite_makes_no_version(llama: BaseModel, value: float) -> None:
    before = snapshot(llama)
    name, module = next(iter(llama.modules.items()))
    with pytest.raises(NotFiniteError):
        llama.version(Delta({name: Change(dense_UV=torch.full(module.shape, value))}))
    assert_untouched(llama, before)


def test_a_weight_that_overflows_its_dtype_makes_no_version() -> None:
    base = tiny_base(dtype=torch.float16)
    name, module = next(iter(base.modules.items()))
    with pytest.raises(NotFiniteError):
        base.version(Delta({name: Change(dense_UV=torch.full(module.shape, 1e6))}))
