"""Answers written together: `python -m benchmarks.generation --model FOLDER [--tokens 32 --repeats 3]`.

The packaged openings are continued greedily, one answer after the other and then together, in turns, by the
base and by three versions with random deltas. Prints one JSON object: tokens a second of both, medians over
the repeats, and how many answers came out the same.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch

from malmen_core.editing.covariance import openings
from malmen_core.generation.generator import GenerationRequest, Writer
from malmen_core.models.base import BaseModel
from malmen_core.models.delta import Change, Delta
from malmen_core.models.overlay import Version

VERSIONS = 4
RANK = 8
SIZE = 1e-3
Asked = Sequence[tuple[Version, GenerationRequest]]
Answers = dict[Any, str]


def versions(base: BaseModel, count: int) -> list[Version]:
    """The base, and others with small random deltas."""
    made = [base.version(Delta.empty())]
    for seed in range(1, count):
        draw = torch.Generator().manual_seed(seed)
        changes = {
            name: Change(
                left_UR=SIZE * torch.randn(module.shape[0], RANK, generator=draw),
                right_RV=torch.randn(RANK, module.shape[1], generator=draw),
            )
            for name, module in base.modules.items()
        }
        made.append(base.version(Delta(changes)))
    return made


def write(base: BaseModel, asked: Asked, together: int) -> tuple[Answers, float]:
    """Answers to all requests, and tokens a second."""
    writer, texts, tokens = Writer(base, together=together), dict[Any, str](), 0
    began = time.perf_counter()
    for key, (version, request) in enumerate(asked):
        writer.add(key, version, request)
    while writer:
        for which, chunk in writer.step():
            if isinstance(chunk, Exception):
                raise chunk
            texts[which] = texts.get(which, "") + chunk.text
            tokens += (chunk.usage or {}).get("completion_tokens", 0)
    return texts, tokens / (time.perf_counter() - began)


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, help="hub id or folder")
    parser.add_argument("--sizes", default="1,4,16", help="how many answers at once")
    parser.add_argument("--tokens", type=int, default=32, help="of each answer")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="0 leaves the choice to PyTorch")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    base = BaseModel.load(given.model)
    made, texts = versions(base, VERSIONS), openings()
    rows = []
    for size in map(int, given.sizes.split(",")):
        asked = [
            (made[i % VERSIONS], GenerationRequest(texts[i % len(texts)], given.tokens)) for i in range(size)
        ]
        speeds: dict[int, list[float]] = {1: [], size: []}
        same = size
        for _ in range(given.repeats):
            alone, speed = write(base, asked, 1)
            speeds[1].append(speed)
            joint, speed = write(base, asked, size)
            speeds[size].append(speed)
            same = min(same, sum(alone[i] == joint[i] for i in alone))
        one, many = (round(statistics.median(speeds[n]), 1) for n in (1, size))
        rows.append({"answers": size, "one_by_one": one, "together": many, "same_text": same})
    about = {"device": base.device.type, "dtype": str(base.dtype), "threads": torch.get_num_threads()}
    print(json.dumps({**about, "tokens": given.tokens, "rows": rows}))


if __name__ == "__main__":
    main()
