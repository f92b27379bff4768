"""Edit and roll back at full size: `python -m benchmarks.full_size gptj --tokenizer DIR --facts FILE`.

The shapes are those of GPT-J (6B) and T5-XL (3B) but for the vocabulary, which is that of the tokenizer
given; weights are random, in bfloat16. They know nothing, so time and memory are what is measured, and that
an edit takes and is gone again bit for bit. Prints one JSON object: seconds by stage, facts per second, peak
memory.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GPTJConfig, PretrainedConfig, T5Config

from errata.client.facts_file import read_facts
from errata.lab.memory import device_peak_mb, reset_device_peak
from malmen_core.editing.calibrate import calibrate
from malmen_core.editing.edit import compute_statistics, solve
from malmen_core.editing.editor import Editor, EditPlan
from malmen_core.editing.prompts import edit_prompts
from malmen_core.evaluation.evaluate import sample
from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel, ModelInfo
from malmen_core.models.batching import teacher_forced
from malmen_core.models.families import context_length, default_modules, task_of

SHAPES: Mapping[str, Callable[[int], PretrainedConfig]] = {
    "gptj": lambda words: GPTJConfig(vocab_size=words),
    "t5-xl": lambda words: T5Config(
        vocab_size=words,
        d_model=2048,
        d_kv=64,
        d_ff=5120,
        num_layers=24,
        num_heads=32,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
    ),
}
SEED = 0


@dataclass
class Stages:
    """Seconds by stage, in order."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Time what is done inside."""
        began = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[name] = round(time.perf_counter() - began, 2)


def build(config: PretrainedConfig, tokenizer: Any, device: torch.device, budget: int | None) -> BaseModel:
    """A model of random bfloat16 weights in memory."""
    torch.manual_seed(SEED)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            model = task_of(config).auto.from_config(config)
    finally:
        torch.set_default_dtype(before)
    names = default_modules(config)
    info = ModelInfo("random", None, config.model_type, context_length(config), names, f"random:{SEED}")
    return BaseModel(model, tokenizer, info, budget)


def edit_and_undo(base: BaseModel, editor: Editor, facts: Sequence[Fact]) -> dict[str, Any]:
    """One edit set: made, asked, and taken back."""
    stages = Stages(base.device)
    prompts = edit_prompts(base, facts).sequences
    before = [score.nll_A for score in teacher_forced(base, prompts[:1])]
    reset_device_peak(base.device)
    with stages.timed("statistics"):
        statistics = compute_statistics(base, editor, facts)
    with stages.timed("solve"):
        delta = solve(editor, statistics)
    with stages.timed("apply"):
        version = base.version(delta)
    with stages.timed("ask"), version.active():
        scores = teacher_forced(base, prompts)
        success = sum(bool((score.margin_A > 0).all()) for score in scores) / len(scores)
    with stages.timed("roll back"):
        again = [score.nll_A for score in teacher_forced(base, prompts[:1])]
    editing = sum(stages.seconds[name] for name in ("statistics", "solve", "apply"))
    return {
        "n": len(facts),
        "seconds": stages.seconds,
        "facts_per_s": round(len(facts) / editing, 4),
        "peak_mb": device_peak_mb(base.device),
        "edit_success": round(success, 4),
        "rolled_back": all(bool((a == b).all()) for a, b in zip(before, again, strict=True)),
    }


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("shape", choices=sorted(SHAPES))
    parser.add_argument("--tokenizer", required=True, help="folder or hub id of any fast tokenizer")
    parser.add_argument("--facts", required=True, type=Path, help="in a format that `errata evaluate` reads")
    parser.add_argument("--sizes", default="1,16", help="numbers of facts")
    parser.add_argument("--plan", type=json.loads, default={}, help="of the edits, as a JSON object")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--budget", type=int, help="bytes for activations and statistics")
    given = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(given.tokenizer)
    device = torch.device(given.device)
    stages = Stages(device)
    with stages.timed("build"):
        base = build(SHAPES[given.shape](len(tokenizer)), tokenizer, device, given.budget)
    digest = base.parameters_digest()
    with stages.timed("calibrate"):
        editor = calibrate(base, plan=EditPlan.of(given.plan))
    calibrating_mb = device_peak_mb(base.device)
    records = read_facts(given.facts)
    rows = []
    for size in map(int, given.sizes.split(",")):
        facts = [Fact.from_json(record) for record in sample(records, size, SEED)]
        rows.append(edit_and_undo(base, editor, facts))
        print(json.dumps(rows[-1]), flush=True)
    print(
        json.dumps(
            {
                "shape": given.shape,
                "parameters": sum(each.numel() for each in base.model.parameters()),
                "modules": {name: list(module.shape) for name, module in base.modules.items()},
                "dtype": "bfloat16",
                "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
                "threads": torch.get_num_threads(),
                "plan": given.plan,
                "seconds": stages.seconds,
                "calibrating_peak_mb": calibrating_mb,
                "rows": rows,
                "base_untouched": base.parameters_digest() == digest,
            }
        )
    )


if __name__ == "__main__":
    main()
