"""Checkpoints that load in other forms than one float32 file, and those that are refused, each with why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from malmen_core.errors import CoreError, ModelNotLoadable, UnknownModule, UnsupportedArchitecture
from malmen_core.models.base import BaseModel, inspect_source
from tests.tiny import save_tiny, tiny_llama, tiny_tokenizer
from tests.tiny_tasks import save_tiny_task

HEAD = "classifier"


def rewrite(folder: Path, **changes: Any) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


def masked(folder: Path) -> Path:
    config = BertConfig(vocab_size=40, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    BertForMaskedLM(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def one_label(folder: Path) -> Path:
    return save_tiny_task(folder, "bert", id2label={0: "score"}, label2id={"score": 0})


REFUSED: dict[str, tuple[Callable[[Path], Path], type[CoreError], str]] = {
    "unknown family": (
        lambda f: rewrite(save_tiny(f), model_type="mamba"),
        UnsupportedArchitecture,
        "qwen2",
    ),
    "another task": (masked, UnsupportedArchitecture, "BertForSequenceClassification"),
    "decoder as classifier": (
        lambda f: rewrite(save_tiny(f), architectures=["LlamaForSequenceClassification"]),
        UnsupportedArchitecture,
        "LlamaForCausalLM",
    ),
    "quantised": (
        lambda f: rewrite(save_tiny(f), quantization_config={"quant_method": "gptq", "bits": 4}),
        UnsupportedArchitecture,
        "gptq",
    ),
    "no layers": (lambda f: save_tiny(f, layers=0), UnknownModule, "no layers"),
    "one label": (one_label, UnsupportedArchitecture, "score"),
    "several labels at once": (
        lambda f: save_tiny_task(f, "bert", problem_type="multi_label_classification"),
        UnsupportedArchitecture,
        "multi_label",
    ),
}


@pytest.mark.parametrize("what", sorted(REFUSED))
def test_what_cannot_be_edited_is_refused_before_its_weights_are_read(what: str, tmp_path: Path) -> None:
    make, error, said = REFUSED[what]
    with pytest.raises(error, match=said) as refused:
        inspect_source(str(make(tmp_path)))
    assert refused.value.field == "/source"
    assert refused.value.remedy


@pytest.mark.parametrize("name", [HEAD, "bert.pooler.dense", "bert.embeddings.word_embeddings"])
def test_only_projections_of_the_layers_can_be_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownModule) as refused:
        inspect_source(str(save_tiny_task(tmp_path, "bert")), modules=[name])
    assert refused.value.field == "/modules/0"


def test_a_sharded_bfloat16_checkpoint_is_the_model_that_was_saved(tmp_path: Path) -> None:
    model: Any = tiny_llama(tied=True)
    model = model.to(torch.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size="30KB")
    tiny_tokenizer().save_pretrained(tmp_path)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    for dtype in ("float32", "bfloat16"):
        base = BaseModel.load(str(tmp_path), device="cpu", dtype=dtype)
        assert str(base.dtype) == f"torch.{dtype}"
        for name, value in model.state_dict().items():
            assert torch.equal(base.model.state_dict()[name].to(torch.bfloat16), value)
    before = inspect_source(str(tmp_path)).digest
    shards[0].unlink()
    with pytest.raises(CoreError, match=shards[0].name):
        inspect_source(str(tmp_path))
    assert before.startswith("sha256:")


@pytest.mark.parametrize("device", ["balanced", "cuda:99", "gpu"])
def test_a_device_that_is_not_there_is_refused(device: str, tmp_path: Path) -> None:
    with pytest.raises(ModelNotLoadable, match=f"no device '{device}'") as caught:
        BaseModel.load(str(save_tiny(tmp_path / "tiny")), device=device)
    assert caught.value.field == "/device"
    assert "one device as a whole" in caught.value.remedy
