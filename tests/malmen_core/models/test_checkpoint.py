"""Weights that were saved in PyTorch's own form, as older checkpoints of a hub have them."""

from __future__ import annotations

import fnmatch
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from malmen_core.errors import ModelNotLoadable
from malmen_core.export.adapter import checkpoint_dtype, write_checkpoint
from malmen_core.models import checkpoint as weight_files
from malmen_core.models.base import BaseModel, inspect_source
from malmen_core.models.checkpoint import checkpoint_folder
from tests.malmen_core.models.test_overlay import delta
from tests.tiny import CORPUS, save_tiny
from tests.tiny_tasks import save_tiny_task

PLAIN: dict[str, Any] = {}
LEGACY: dict[str, Any] = {"_use_new_zipfile_serialization": False}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("good"))


def as_bin(checkpoint: Path, folder: Path, **options: Any) -> Path:
    """The same checkpoint with its weights in PyTorch's own form."""
    shutil.copytree(checkpoint, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(load_file(checkpoint / "model.safetensors"), folder / "pytorch_model.bin", **options)
    return folder


@pytest.mark.parametrize("options", [PLAIN, LEGACY], ids=["zip", "legacy"])
def test_it_is_the_same_model(checkpoint: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    folder = as_bin(checkpoint, tmp_path / "bin", **options)
    base = BaseModel.load(str(folder), device="cpu")
    expected = BaseModel.load(str(checkpoint), device="cpu")
    assert base.parameters_digest() == expected.parameters_digest()
    assert base.info.digest != expected.info.digest  # of other files
    assert checkpoint_dtype(folder) == "float32"


def test_its_digest_is_of_its_bytes(checkpoint: Path, tmp_path: Path) -> None:
    folder = as_bin(checkpoint, tmp_path / "bin")
    before = inspect_source(str(folder)).digest
    (folder / "README.md").write_text("nothing")
    assert inspect_source(str(folder)).digest == before
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    state["model.norm.weight"] += 1
    torch.save(state, folder / "pytorch_model.bin")
    assert inspect_source(str(folder)).digest != before


def test_shards_are_found_by_their_index(checkpoint: Path, tmp_path: Path) -> None:
    folder = as_bin(checkpoint, tmp_path / "bin")
    state = list(torch.load(folder / "pytorch_model.bin", weights_only=True).items())
    (folder / "pytorch_model.bin").unlink()
    names = [f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)]
    place: dict[str, str] = {}
    for name, part in zip(names, (state[::2], state[1::2]), strict=True):
        torch.save(dict(part), folder / name)
        place |= {tensor: name for tensor, _ in part}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": place}))
    base = BaseModel.load(str(folder), device="cpu")
    assert base.parameters_digest() == BaseModel.load(str(checkpoint), device="cpu").parameters_digest()
    (folder / names[1]).unlink()
    with pytest.raises(ModelNotLoadable, match=f"lacks {names[1]}"):
        inspect_source(str(folder))


class Code:
    """What runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("options", [PLAIN, LEGACY], ids=["zip", "legacy"])
def test_code_in_it_is_refused_and_never_run(
    checkpoint: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    folder, mark = as_bin(checkpoint, tmp_path / "bin"), tmp_path / "mark"
    torch.save({"a": torch.zeros(1), "b": Code(mark)}, folder / "pytorch_model.bin", **options)
    for attempt in (inspect_source, BaseModel.load):
        with pytest.raises(ModelNotLoadable, match="holds more than weights") as refused:
            attempt(str(folder))
        assert refused.value.field == "/source"
    assert not mark.exists()


def test_safetensors_are_preferred(checkpoint: Path, tmp_path: Path) -> None:
    folder = as_bin(checkpoint, tmp_path / "both")
    (folder / "pytorch_model.bin").write_bytes(b"garbage")
    shutil.copy(checkpoint / "model.safetensors", folder)
    assert inspect_source(str(folder)).digest == inspect_source(str(checkpoint)).digest


def test_a_version_is_exported_as_safetensors(checkpoint: Path, tmp_path: Path) -> None:
    base = BaseModel.load(str(as_bin(checkpoint, tmp_path / "bin")), device="cpu")
    out = tmp_path / "out"
    out.mkdir()
    write_checkpoint(base, base.version(delta(base, 1)), out)
    assert not list(out.glob("*.bin*"))
    assert BaseModel.load(str(out), device="cpu").parameters_digest() != base.parameters_digest()


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_of_a_hub_s_files_those_are_fetched_that_are_needed(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """The hub is a folder here; what is fetched of it, and in which order, is what counts."""
    hub, local = as_bin(checkpoint, tmp_path / "hub"), tmp_path / "local"
    if form == "safetensors":
        shutil.copy(checkpoint / "model.safetensors", hub)

    def fetch(source: str, *, revision: str | None, allow_patterns: list[str], tqdm_class: Any) -> str:
        assert (source, revision) == ("some/model", "v1")
        local.mkdir(exist_ok=True)
        for unit, total in (("B", 9), ("it", 2)):
            with tqdm_class(desc="Fetching", total=total, unit=unit) as bar:
                bar.update(2)
        for file in hub.iterdir():
            if any(fnmatch.fnmatch(file.name, pattern) for pattern in allow_patterns):
                shutil.copy(file, local)
        return str(local)

    monkeypatch.setattr(weight_files, "snapshot_download", fetch)
    told: list[tuple[int, int]] = []
    assert checkpoint_folder("some/model", "v1", lambda done, total: told.append((done, total))) == local
    assert set(told) == {(2, 9)}, "bytes, not files"
    weights = {file.name for file in local.iterdir()} & {"model.safetensors", "pytorch_model.bin"}
    assert weights == {"model.safetensors" if form == "safetensors" else "pytorch_model.bin"}


def sentencepiece_alone(folder: Path) -> Path:
    """A T5 whose tokenizer is a SentencePiece model and nothing else, as its authors published them."""
    save_tiny_task(folder, "t5")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    SentencePieceTrainer.Train(
        sentence_iterator=iter(CORPUS * 3),
        model_prefix=str(folder / "spiece"),
        vocab_size=120,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (folder / "spiece.vocab").unlink()
    return folder


def test_a_tokenizer_of_a_sentencepiece_model_alone(tmp_path: Path) -> None:
    base = BaseModel.load(str(sentencepiece_alone(tmp_path)), device="cpu")
    own = SentencePieceProcessor(model_file=str(tmp_path / "spiece.model"))
    question, answer = "What is the capital of France?", "Paris"
    encoded = base.encode(question, answer, "France")
    assert list(encoded.ids[: encoded.answer_start]) == [*own.EncodeAsIds(question), 1]
    assert list(encoded.answer) == [*own.EncodeAsIds(answer), 1]


@pytest.mark.parametrize("kind", ["t5", "bert", "roberta"])
def test_a_tokenizer_that_is_made_of_nothing_is_refused(tmp_path: Path, kind: str) -> None:
    save_tiny_task(tmp_path, kind)
    for file in (*tmp_path.glob("tokenizer*"), *tmp_path.glob("vocab*")):
        file.unlink()
    with pytest.raises(ModelNotLoadable) as refused:
        BaseModel.load(str(tmp_path), device="cpu")
    assert refused.value.field == "/source"
