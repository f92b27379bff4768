"""Checkpoints: what is said of good ones, and which error each kind of bad one gets."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from malmen_core.errors import CoreError, ModelNotLoadable, UnknownModule, UnsupportedArchitecture
from malmen_core.models.base import BaseModel, inspect_source
from tests.malmen_core.support import tiny_base
from tests.tiny import save_tiny


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("good"))


def test_a_good_folder_is_described_and_loaded(checkpoint: Path) -> None:
    info = inspect_source(str(checkpoint))
    assert (info.architecture, info.context_length, info.revision) == ("llama", 128, None)
    assert info.modules == tuple(f"model.layers.{i}.mlp.down_proj" for i in range(4))
    base = BaseModel.load(str(checkpoint), device="cpu")
    assert base.info == info
    assert (base.dtype, base.device.type) == (torch.float32, "cpu")
    assert not base.model.training
    assert not any(p.requires_grad for p in base.model.parameters())
    assert BaseModel.load(str(checkpoint), device="cpu").parameters_digest() == base.parameters_digest()
    assert base.stop_ids == {0}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_dtype_is_as_asked_for(checkpoint: Path, dtype: str) -> None:
    assert BaseModel.load(str(checkpoint), device="cpu", dtype=dtype).dtype == getattr(torch, dtype)


@pytest.mark.parametrize(
    ("dtype", "multiplies", "warns"),
    [("bfloat16", False, True), ("bfloat16", True, False), ("auto", False, False), ("float16", False, False)],
)
def test_a_processor_that_is_slow_at_a_dtype_is_said_to_be(
    checkpoint: Path,
    dtype: str,
    multiplies: bool,
    warns: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("malmen_core.models.base.multiplies_bfloat16", lambda: multiplies)
    BaseModel.load(str(checkpoint), device="cpu", dtype=dtype)
    assert ("does not multiply bfloat16" in caplog.text) is warns


def test_modules_can_be_chosen(checkpoint: Path) -> None:
    names = ["model.layers.3.self_attn.o_proj", "model.layers.0.mlp.up_proj"]
    base = BaseModel.load(str(checkpoint), modules=names, device="cpu")
    assert list(base.modules) == names
    assert base.modules[names[1]].shape == (32, 48)


def test_digest_is_of_the_files(checkpoint: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    assert inspect_source(str(copy)).digest == inspect_source(str(checkpoint)).digest
    other = save_tiny(tmp_path / "other", seed=1)
    assert inspect_source(str(other)).digest != inspect_source(str(checkpoint)).digest


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def garbage_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def garbage_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"garbage")


def missing_shard(folder: Path) -> None:
    index = {"metadata": {}, "weight_map": {"a": "model.safetensors", "b": "model-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def garbage_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("{")


def no_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def missing_tensor(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.2.mlp.gate_proj.weight"]
    save_file(tensors, path, {"format": "pt"})


BROKEN = [no_config, garbage_config, no_weights, cut_weights, garbage_weights, missing_shard, garbage_index]


@pytest.mark.parametrize("damage", [*BROKEN, no_tokenizer], ids=lambda d: d.__name__)
def test_a_damaged_folder_is_said_at_inspection(
    checkpoint: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    damage(folder)
    for attempt in (inspect_source, BaseModel.load):
        with pytest.raises(ModelNotLoadable) as refused:
            attempt(str(folder))
        assert refused.value.field == "/source"
        assert refused.value.remedy


def test_a_missing_tensor_is_said_not_made_up(checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    missing_tensor(folder)
    with pytest.raises(ModelNotLoadable, match="gate_proj") as refused:
        BaseModel.load(str(folder), device="cpu")
    assert refused.value.field == "/source"


@pytest.mark.parametrize(
    "source", ["/no/such/folder", "./nowhere", "a/b/c", "~nobody-of-this-name", "/" + "a" * 300]
)
def test_a_missing_folder_is_said(source: str) -> None:
    with pytest.raises(ModelNotLoadable, match="no folder") as refused:
        inspect_source(source)
    assert refused.value.field == "/source"


@pytest.mark.parametrize("kind", ["bert", "never_heard_of"])
def test_an_unknown_architecture_is_said(checkpoint: Path, tmp_path: Path, kind: str) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": kind}))
    with pytest.raises(UnsupportedArchitecture, match=kind) as refused:
        inspect_source(str(folder))
    assert refused.value.field == "/source"


@pytest.mark.parametrize(
    ("modules", "field"),
    [
        (["model.layers.0.mlp.down_proj", "model.layers.9.mlp.down_proj"], "/modules/1"),
        (["model.layers.0.mlp"], "/modules/0"),
        (["model.embed_tokens"], "/modules/0"),
        (["lm_head"], "/modules/0"),
        (["model.layers.0.mlp.down_proj", "model.layers.0.mlp.down_proj"], "/modules/1"),
        ([], "/modules"),
    ],
)
def test_an_unknown_module_is_said(checkpoint: Path, modules: list[str], field: str) -> None:
    with pytest.raises(UnknownModule) as refused:
        inspect_source(str(checkpoint), None, modules)
    assert refused.value.field == field


def test_an_unknown_dtype_is_said(checkpoint: Path) -> None:
    with pytest.raises(ModelNotLoadable) as refused:
        BaseModel.load(str(checkpoint), dtype="int3")
    assert refused.value.field == "/dtype"


def test_errors_say_what_and_what_to_do() -> None:
    error = ModelNotLoadable("It broke.", "Mend it.", "/source")
    assert isinstance(error, CoreError)
    assert str(error) == "It broke. Mend it."
    assert len({kind.code for kind in CoreError.__subclasses__()}) == len(CoreError.__subclasses__())


def test_a_padding_token_that_the_model_does_not_have_is_not_used(checkpoint: Path) -> None:
    base = BaseModel.load(str(checkpoint), device="cpu")
    assert base.pad_id == 0
    base.tokenizer.add_special_tokens({"pad_token": "<pad>"})
    assert base.tokenizer.pad_token_id == base.model.config.vocab_size
    assert base.pad_id == 0


@pytest.mark.parametrize(
    ("able", "drafts"),
    [({"amx_bf16": True}, True), ({"avx512_bf16": True}, True), ({"avx512_f": True}, False), ({}, False)],
)
def test_processors_that_multiply_bfloat16_draft(
    monkeypatch: pytest.MonkeyPatch, able: dict[str, bool], drafts: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    base = tiny_base("llama", dtype=torch.float32)
    assert (base.draft is not base) == drafts
