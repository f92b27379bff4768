"""Exported files, loaded by Transformers and PEFT, answer as the version does; wrong ones are refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from malmen_core.errors import ExportRefused
from malmen_core.export.adapter import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    check_exportable,
    checkpoint_dtype,
    write_adapter,
    write_checkpoint,
)
from malmen_core.export.fidelity import (
    TOLERANCES,
    add_adapter,
    coarser,
    compare,
    dtype_name,
    load_adapter,
    load_checkpoint,
)
from malmen_core.models.base import BaseModel
from malmen_core.models.delta import Change, Delta
from malmen_core.models.tokenization import Encoded, encode
from tests.malmen_core.support import FACTS, louder
from tests.tiny import tiny_gpt2, tiny_llama, tiny_tokenizer
from tests.tiny_tasks import save_tiny_task

KINDS = ("llama", "gpt2", "tied")


CHECKPOINTS = [(kind, dtype) for kind in KINDS for dtype in ("float32", "bfloat16")]


@pytest.fixture(scope="session", params=CHECKPOINTS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kind, dtype = request.param
    folder = tmp_path_factory.mktemp(f"{kind}-{dtype}")
    model = tiny_gpt2(3) if kind == "gpt2" else tiny_llama(3, tied=kind == "tied")
    louder(model).to(getattr(torch, dtype)).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def base(checkpoint: Path) -> BaseModel:
    return BaseModel.load(str(checkpoint), device="cpu", dtype=checkpoint_dtype(checkpoint))


def changed(base: BaseModel, rank: int, *, dense: bool = False, seed: int = 1) -> Delta:
    """Changes of half the size of the weights."""
    torch.manual_seed(seed)
    changes = {}
    for number, (name, module) in enumerate(base.modules.items()):
        left = torch.randn(module.shape[0], rank + number)
        right = torch.randn(rank + number, module.shape[1])
        right *= 0.5 * module.weight_UV.float().norm() / (left @ right).norm()
        changes[name] = Change(dense_UV=left @ right) if dense else Change(left, right)
    return Delta(changes)


def probes(base: BaseModel) -> list[Encoded]:
    return [encode(base.tokenizer, fact.prompt, fact.target) for fact in FACTS]


def error(base: BaseModel, delta: Delta, loaded: object, sequences: Sequence[Encoded]) -> float:
    result = compare(base, base.version(delta), loaded, sequences, TOLERANCES[dtype_name(base)])
    assert result.sequences == len(FACTS)
    assert result.tokens == sum(len(sequence.answer) for sequence in sequences)
    return result.error


def test_a_checkpoint_is_the_base_but_for_the_edited_weights(
    base: BaseModel, checkpoint: Path, tmp_path: Path
) -> None:
    delta = changed(base, 3)
    before = base.parameters_digest()
    version = base.version(delta)
    write_checkpoint(base, version, tmp_path)
    assert base.parameters_digest() == before
    loaded = load_checkpoint(tmp_path, base.device)
    assert error(base, delta, loaded, probes(base)) == 0.0
    written, original = loaded.state_dict(), base.model.state_dict()
    different = {
        name
        for name, tensor in original.items()
        if written[name].dtype != tensor.dtype or not torch.equal(written[name], tensor)
    }
    assert different == {f"{name}.weight" for name in base.modules}
    for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (checkpoint / name).read_bytes()
    ids = AutoTokenizer.from_pretrained(tmp_path)("The capital of Peru is")["input_ids"]
    assert ids == base.tokenizer("The capital of Peru is")["input_ids"]


def test_another_model_is_refused(base: BaseModel, checkpoint: Path) -> None:
    plain = AutoModelForCausalLM.from_pretrained(checkpoint, dtype="auto")
    result = compare(base, base.version(changed(base, 3)), plain, probes(base), TOLERANCES["bfloat16"])
    assert result.argmax_changed > 0
    with pytest.raises(ExportRefused, match="does not answer"):
        result.check()


@pytest.mark.parametrize("dense", [False, True])
def test_an_adapter_adds_the_delta(base: BaseModel, tmp_path: Path, dense: bool) -> None:
    delta = changed(base, 3, dense=dense)
    written = write_adapter(base, delta, tmp_path, truncation=1e-6)
    assert written.rank == 3 + len(base.modules) - 1
    assert written.truncation <= 1e-6
    loaded, _ = load_adapter(base, tmp_path)
    assert error(base, delta, loaded, probes(base)) <= TOLERANCES[dtype_name(base)]
    config = json.loads((tmp_path / ADAPTER_CONFIG).read_text())
    assert config["r"] == config["lora_alpha"] == written.rank


@pytest.mark.parametrize("damage", ["scale", "weights", "nan"])
def test_a_damaged_adapter_is_refused(base: BaseModel, tmp_path: Path, damage: str) -> None:
    delta = changed(base, 3)
    write_adapter(base, delta, tmp_path)
    if damage == "scale":
        config = json.loads((tmp_path / ADAPTER_CONFIG).read_text())
        (tmp_path / ADAPTER_CONFIG).write_text(json.dumps(config | {"lora_alpha": 4 * config["r"]}))
    else:
        tensors = load_file(tmp_path / ADAPTER_WEIGHTS)
        first = next(iter(tensors))
        tensors[first] *= -1 if damage == "weights" else torch.nan
        save_file(tensors, tmp_path / ADAPTER_WEIGHTS)
    loaded, _ = load_adapter(base, tmp_path)
    result = compare(base, base.version(delta), loaded, probes(base), TOLERANCES[dtype_name(base)])
    with pytest.raises(ExportRefused):
        result.check()


@pytest.mark.skipif(find_spec("peft") is None, reason="PEFT is not installed")
def test_our_reading_of_an_adapter_is_that_of_peft(base: BaseModel, checkpoint: Path, tmp_path: Path) -> None:
    delta = changed(base, 3)
    write_adapter(base, delta, tmp_path)
    _, reader = load_adapter(base, tmp_path)
    assert reader.startswith("peft ")
    ours = AutoModelForCausalLM.from_pretrained(checkpoint, dtype="auto")
    add_adapter(ours, tmp_path)
    assert error(base, delta, ours, probes(base)) <= TOLERANCES[dtype_name(base)]


def test_a_rank_above_the_bound_is_refused_unless_little_is_lost(base: BaseModel, tmp_path: Path) -> None:
    delta = changed(base, 6)
    with pytest.raises(ExportRefused, match="rank"):
        write_adapter(base, delta, tmp_path, largest_rank=4)
    assert list(tmp_path.iterdir()) == []
    cut = write_adapter(base, delta, tmp_path, largest_rank=4, truncation=0.9)
    assert cut.rank <= 4
    assert 0 < cut.truncation <= 0.9
    loaded, _ = load_adapter(base, tmp_path)
    result = compare(base, base.version(delta), loaded, probes(base), TOLERANCES[dtype_name(base)])
    with pytest.raises(ExportRefused):
        result.check()


def test_there_is_no_adapter_for_the_base(base: BaseModel, tmp_path: Path) -> None:
    with pytest.raises(ExportRefused, match="changes nothing"):
        write_adapter(base, Delta.empty(), tmp_path)


def test_a_folder_without_floats_is_refused(tmp_path: Path) -> None:
    save_file({"ids": torch.zeros(3, dtype=torch.int64)}, tmp_path / "model.safetensors")
    with pytest.raises(ExportRefused, match="no weights"):
        checkpoint_dtype(tmp_path)


def test_the_coarser_dtype_sets_the_tolerance() -> None:
    assert coarser("float32", "bfloat16") == coarser("bfloat16", "float16") == "bfloat16"
    assert coarser("float32", "float64") in ("float32", "float64")


@pytest.mark.parametrize("kind", ["t5", "bert"])
def test_other_tasks_are_refused(tmp_path: Path, kind: str) -> None:
    other = BaseModel.load(str(save_tiny_task(tmp_path, kind)), device="cpu", dtype="float32")
    with pytest.raises(ExportRefused, match="cannot be exported"):
        check_exportable(other)
