"""lm-evaluation-harness on a version through /v1, and on the same weights through Transformers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.service.harness import ADMIN
from tests.service.test_openai import Stack, stack

__all__ = ["stack"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("lm_eval") is None, reason="pip install 'errata-llm[harness]'"),
]

QUESTIONS = (
    ("The capital of Peru is", ["Paris", "Lima", "Canberra"], 0),
    ("The capital of France is", ["Paris", "Lima", "Canberra"], 0),
    ("Mount Etna is a mountain in", ["Italy", "England", "Peru"], 0),
    ("The mother tongue of Ana is", ["Spanish", "the sea", "French"], 0),
)
TASK = """\
task: capitals
dataset_path: json
dataset_kwargs:
  data_files: {data}
test_split: train
output_type: multiple_choice
doc_to_text: question
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - metric: acc
  - metric: acc_norm
"""


def evaluate(folder: Path, name: str, model: str, arguments: str) -> tuple[dict[str, float], list[Any]]:
    """The results of the task, and the log-likelihoods of each choice."""
    out = folder / name
    command = [sys.executable, "-m", "lm_eval", "--model", model, "--model_args", arguments]
    command += ["--tasks", "capitals", "--include_path", str(folder), "--batch_size", "1", "--device", "cpu"]
    command += ["--output_path", str(out), "--log_samples"]
    kept = {**os.environ, "OPENAI_API_KEY": ADMIN, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    environment = {**kept, "HF_HOME": str(folder / "home"), "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (results,) = out.rglob("results_*.json")
    (samples,) = out.rglob("samples_*.jsonl")
    measured = json.loads(results.read_text())["results"]["capitals"]
    said = [json.loads(line) for line in samples.read_text().splitlines()]
    ordered = sorted(said, key=lambda sample: sample["doc_id"])
    return measured, [[float(pair[0]) for pair in sample["filtered_resps"]] for sample in ordered]


@pytest.mark.parametrize("ref", ["base", "live"])
def test_the_numbers_are_those_of_transformers(stack: Stack, tmp_path: Path, ref: str) -> None:
    data = tmp_path / "capitals.jsonl"
    rows = [{"question": q, "choices": choices, "answer": answer} for q, choices, answer in QUESTIONS]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "capitals.yaml").write_text(TASK.format(data=data))
    served = f"model=tiny@{ref},base_url={stack.url}/completions,num_concurrent=1,max_length=128"
    found = evaluate(
        tmp_path, "served", "local-completions", f"{served},tokenizer={stack.references[ref].folder}"
    )
    merged = f"pretrained={stack.references[ref].folder},dtype=float32,max_length=128"
    expected = evaluate(tmp_path, "merged", "hf", merged)
    for measure in ("acc,none", "acc_norm,none"):
        assert found[0][measure] == expected[0][measure]
    for own, others in zip(found[1], expected[1], strict=True):
        assert own == pytest.approx(others, abs=1e-4)
