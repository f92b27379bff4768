"""What a GPU adds: that it computes what the CPU does, and how fast full-size shapes are edited on it.

    python -m benchmarks.gpu --out FILE.json

Nothing is fetched: weights are random, the tokenizer and the facts are made here. Three parts, one JSON object:

- `solver`: the normal equation in float64 on the device and on the CPU, with fewer rows than features and more.
- `forms`: small models of every kind in float64, edited in this project's form and in the paper's; and the
  meta-gradient of the paper's form. The largest difference from the CPU's result, relative to its largest entry.
- `shapes`: GPT-J's and T5-XL's shapes in bfloat16, edited in the paper's form: seconds by stage, peak memory.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig, GPT2Config, GPTJConfig, LlamaConfig, PretrainedConfig, T5Config

from benchmarks.full_size import SEED, SHAPES, Stages, build, edit_and_undo
from benchmarks.taught.pupils import byte_level
from errata.lab.memory import device_peak_mb
from malmen_core.editing.calibrate import initial_editor, paper_editor
from malmen_core.editing.capture import capture
from malmen_core.editing.edit import edit, solve
from malmen_core.editing.editor import PAPER, Editor, EditPlan
from malmen_core.editing.ridge import Regulariser, Ridge
from malmen_core.facts import Fact, LocalityPrompt
from malmen_core.models.base import BaseModel, ModelInfo
from malmen_core.models.families import context_length, default_modules, task_of
from malmen_core.resources import control_text
from malmen_core.training.meta_gradient import EditInputs, meta_gradient
from malmen_core.training.meta_loss import LossWeights, prepare_batch

SYLLABLES = ("ka", "lo", "mi", "ra", "te", "vu", "so", "ni", "pe", "du")
STATEMENTS = ("The capital of {} is", "{} was founded in", "The mayor of {} is", "{} lies on the river")
ANSWERS = ("Canberra", "Lima", "Jane Austen", "Paris", "Mount Etna")
LABELS = {0: "true", 1: "false"}
SOLVED = ((512, 4096, 1024), (16384, 4096, 1024))
ROWS = 12


def facts(count: int, labels: Sequence[str] = ANSWERS) -> list[Fact]:
    """Made-up facts about made-up names, all different."""
    parts = (each for n in range(2, 9) for each in itertools.product(SYLLABLES, repeat=n))
    stated = (("".join(each).capitalize(), statement) for each in parts for statement in STATEMENTS)
    found = []
    for number, (name, statement) in enumerate(itertools.islice(stated, count)):
        probe = LocalityPrompt(statement.format("Ruvolika"))
        prompt, target = statement.format(name), labels[number % len(labels)]
        found.append(Fact(prompt, target, name, (f"Now, {prompt}",), (probe,)))
    return found


def small(words: int) -> dict[str, PretrainedConfig]:
    """A small model of every kind."""
    bert: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4}
    return {
        "gpt2": GPT2Config(vocab_size=words, n_embd=64, n_layer=4, n_head=4),
        "gptj": GPTJConfig(vocab_size=words, n_embd=64, n_layer=4, n_head=4, rotary_dim=8),
        "llama": LlamaConfig(
            vocab_size=words,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=4,
            num_attention_heads=4,
        ),
        "t5": T5Config(
            vocab_size=words,
            d_model=64,
            d_kv=16,
            d_ff=96,
            num_layers=3,
            num_heads=4,
            decoder_start_token_id=0,
        ),
        "bert": BertConfig(vocab_size=words, num_attention_heads=4, id2label=LABELS, **bert),
    }


def difference(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, relative to the largest entry that is wanted."""
    return float((found.cpu().double() - wanted.double()).abs().max() / wanted.double().abs().max())


def solver(device: torch.device, sizes: Sequence[tuple[int, int, int]]) -> list[dict[str, Any]]:
    """The normal equation of random rows, here and there."""
    found = []
    for rows, inputs, outputs in sizes:
        generator = torch.Generator().manual_seed(SEED)
        keys_TU, differences_TV = (
            torch.randn(rows, width, generator=generator, dtype=torch.float64) for width in (inputs, outputs)
        )
        stages, shifts = Stages(device), {}
        for place in dict.fromkeys((torch.device("cpu"), device)):
            with stages.timed(place.type):
                regulariser = Regulariser(1.0, inputs, place)
                shifts[place] = Ridge.of(keys_TU.to(place), regulariser).shift(differences_TV)
        gap = difference(shifts[device], shifts[torch.device("cpu")])
        found.append({"rows": rows, "features": inputs, "difference": gap, "seconds": stages.seconds})
    return found


def small_base(config: PretrainedConfig, tokenizer: Any, device: torch.device) -> BaseModel:
    """A small model of random float64 weights, the same on every device."""
    torch.manual_seed(SEED)
    model = task_of(config).auto.from_config(config).double().to(device)
    info = ModelInfo(
        "random",
        None,
        config.model_type,
        context_length(config),
        default_modules(config),
        f"random:{SEED}",
    )
    return BaseModel(model, tokenizer, info)


def edited(base: BaseModel, editor: Editor, some: Sequence[Fact]) -> dict[str, Tensor]:
    """What an edit adds to each module."""
    delta = solve(base, editor, edit(base, editor, some).statistics)
    return {name: change.dense(torch.float64).cpu() for name, change in delta.modules.items()}


def meta_gradients(base: BaseModel, editor: Editor, some: Sequence[Fact]) -> dict[str, Tensor]:
    """The meta-gradient of every parameter of the editor's network."""
    network = Editor.from_bytes(editor.to_bytes()).network.double().to(base.device).requires_grad_(True)
    batch = prepare_batch(base, some, LossWeights())
    seen = capture(base, batch.edits, editor.plan.where)
    meta_gradient(base, network, editor, EditInputs(seen), batch)
    named = network.named_parameters()
    return {name: each.grad.cpu() for name, each in named if each.grad is not None and each.grad.any()}


def forms(device: torch.device, tokenizer: Any) -> list[dict[str, Any]]:
    """Each kind of model in each form: how far the device's result is from the CPU's."""
    found = []
    ours = EditPlan.of({"where": "answer", "prior_weight": 0, "prior_growth": 0})
    for kind, config in small(len(tokenizer)).items():
        here, there = (small_base(config, tokenizer, place) for place in (torch.device("cpu"), device))
        some = facts(ROWS, here.task.labels or ANSWERS)
        paper = paper_editor(here, step=1.0, ridge=1.0)
        measures = {
            "errata": (edited, initial_editor(here, ours, {}, {})),
            "paper": (edited, paper),
            "meta-gradient": (meta_gradients, paper),
        }
        for name, (measure, editor) in measures.items():
            wanted, got = (measure(base, editor, some) for base in (here, there))
            gap = max(difference(got[part], value) for part, value in wanted.items())
            found.append({"model": kind, "form": name, "difference": gap})
    return found


def shape(name: str, tokenizer: Any, device: torch.device, sizes: Sequence[int]) -> dict[str, Any]:
    """One full-size shape, edited in the paper's form."""
    stages = Stages(device)
    with stages.timed("build"):
        base = build(SHAPES[name](len(tokenizer)), tokenizer, device, None)
    digest = base.parameters_digest()
    editor = paper_editor(base, step=1.0, ridge=1.0)
    rows = [edit_and_undo(base, editor, facts(size)) for size in sizes]
    return {
        "shape": name,
        "parameters": sum(each.numel() for each in base.model.parameters()),
        "plan": PAPER.where,
        "seconds": stages.seconds,
        "rows": rows,
        "peak_mb": device_peak_mb(device),
        "base_untouched": base.parameters_digest() == digest,
    }


def main(words: Sequence[str] | None = None) -> Mapping[str, Any]:
    """Read the arguments, measure, write; gives what was written."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shapes", default=",".join(SHAPES), help="some of them, with commas")
    parser.add_argument("--sizes", default="1,1024,8192,16384", help="numbers of facts")
    parser.add_argument("--solved", type=json.loads, default=SOLVED, help="rows, features, outputs, as JSON")
    given = parser.parse_args(words)
    device = torch.empty(0, device=given.device).device
    tokenizer = byte_level([*control_text(), *ANSWERS])
    sizes = [int(size) for size in given.sizes.split(",")]
    found = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": torch.__version__,
        "solver": solver(device, given.solved),
        "forms": forms(device, tokenizer),
        "shapes": [shape(name, tokenizer, device, sizes) for name in given.shapes.split(",")],
    }
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))
    return found


if __name__ == "__main__":
    main()
