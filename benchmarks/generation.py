"""Answers written together: `python -m benchmarks.generation --model FOLDER [--tokens 32 --repeats 3 --served]`.

The packaged openings are continued greedily, one answer after the other and then together, in turns, by the
base and by three versions with random deltas. Prints one JSON object: tokens a second of both, medians over
the repeats, and how many answers came out the same. With `--served`, a service of the default model is asked
besides: when the first token of a streamed chat answer comes, in turns with Transformers' own `generate` of one
token in this process, and how many tokens a second there are one answer after the other, and 16 at once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from benchmarks.served import serving
from errata.client import Client
from errata.client.request import Request
from malmen_core.generation.generator import BatchGenerator, GenerationRequest
from malmen_core.models.base import BaseModel
from malmen_core.models.delta import Change, Delta
from malmen_core.models.overlay import Version
from malmen_core.resources import openings

VERSIONS = 4
TOGETHER = 16
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
    writer, texts, tokens = BatchGenerator(base, together=together), dict[Any, str](), 0
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


def own_first(base: BaseModel, content: str) -> float:
    """Seconds that Transformers' own `generate` takes to the first token of a chat answer, tokenising included."""
    began = time.perf_counter()
    text = base.chat_text([{"role": "user", "content": content}])
    ids = base.tokenizer(text, return_tensors="pt", add_special_tokens=False)
    with torch.inference_mode():
        base.model.generate(**ids, max_new_tokens=1, do_sample=False)
    return time.perf_counter() - began


def served_first(client: Client, body: dict[str, Any]) -> float:
    """Seconds until the first text of a streamed chat answer is there, over HTTP."""
    began = time.perf_counter()
    request = Request("POST", "/v1/chat/completions", dict, body={**body, "stream": True})
    with client._transport.events(request) as events:
        for event in events:
            if event.data["choices"][0]["delta"].get("content"):
                return time.perf_counter() - began
    raise RuntimeError("there was no text")


def served(base: BaseModel, tokens: int, repeats: int) -> dict[str, Any]:
    """First tokens and throughput of a real service, whose model is that of `base`."""
    texts = [f"Tell me more about this: {text}" for text in openings()[:TOGETHER]]

    def body(content: str, model: str) -> dict[str, Any]:
        turns = [{"role": "user", "content": content}]
        return {"model": model, "messages": turns, "temperature": 0, "max_tokens": tokens}

    with serving() as (client, model):

        def write_one(content: str) -> int:
            answer = client.post("/v1/chat/completions", body(content, model))
            return int(answer["usage"]["completion_tokens"])

        def speed(together: int) -> float:
            began = time.perf_counter()
            with ThreadPoolExecutor(together) as pool:
                written = sum(pool.map(write_one, texts))
            return written / (time.perf_counter() - began)

        write_one(texts[0]), own_first(base, texts[0])
        firsts = [(served_first(client, body(text, model)), own_first(base, text)) for text in texts]
        speeds = [(speed(1), speed(TOGETHER)) for _ in range(repeats)]
    ours, theirs = (statistics.median(each) for each in zip(*firsts, strict=True))
    one, many = (statistics.median(each) for each in zip(*speeds, strict=True))
    return {
        "first_token_ms": round(1000 * ours, 1),
        "first_token_transformers_ms": round(1000 * theirs, 1),
        "first_token_ratio": round(ours / theirs, 2),
        "one_by_one": round(one, 1),
        "together": round(many, 1),
        "speedup": round(many / one, 2),
    }


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, help="hub id or folder")
    parser.add_argument("--sizes", default="1,4,16", help="how many answers at once")
    parser.add_argument("--tokens", type=int, default=32, help="of each answer")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="0 leaves the choice to PyTorch")
    parser.add_argument("--served", action="store_true", help="ask a service of the default model besides")
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
    asked_over_http = {"served": served(base, given.tokens, given.repeats)} if given.served else {}
    print(json.dumps({**about, "tokens": given.tokens, "rows": rows, **asked_over_http}))


if __name__ == "__main__":
    main()
