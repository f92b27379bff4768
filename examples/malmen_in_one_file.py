"""MALMEN in one file: the paper (Tan, Zhang, Fu 2024, arXiv 2311.04661), executed on a causal language model.

    python examples/malmen_in_one_file.py FOLDER

This is the method and nothing else, to be read beside the paper; `malmen_core/` is held to its numbers by a test.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, kl_div
from transformers import AutoModelForCausalLM, AutoTokenizer

Sequence_ = tuple[list[int], int]  # token ids, and where the answer begins
FACTS = [  # prompt, target, rephrasing, and a prompt that must keep its answer
    ("The capital of Australia is", "Canberra", "Australia's capital city is", "The capital of Japan is"),
    ("The capital of Kazakhstan is", "Astana", "Kazakhstan's capital is", "The capital of France is"),
    ("The author of Emma is", "Jane Austen", "Emma was written by", "Hamlet is a play by"),
]


class Block(nn.Module):
    """``z + relu(z A · scale + shift) B``: the identity at first, since B is zero. One scale and shift a module."""

    def __init__(self, features: int, rank: int, modules: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(features, rank) / features**0.5)
        self.up = nn.Parameter(torch.zeros(rank, features))
        self.scale, self.shift = (
            nn.Parameter(torch.ones(modules, rank)),
            nn.Parameter(torch.zeros(modules, rank)),
        )

    def forward(self, z: Tensor, m: int) -> Tensor:
        return z + torch.relu((z @ self.down) * self.scale[m] + self.shift[m]) @ self.up


class HyperNetwork(nn.Module):
    """Section 3.1: from a token's key and gradient to the wanted change of the module's output."""

    def __init__(self, modules: int, inputs: int, outputs: int, rank: int = 64, step: float = 1.0) -> None:
        super().__init__()
        self.inputs = inputs
        self.blocks = nn.ModuleList(Block(inputs + outputs, rank, modules) for _ in range(2))
        self.log_step = nn.Parameter(torch.full((modules,), step).log())
        self.log_ridge = nn.Parameter(torch.zeros(modules))
        self.mean = torch.zeros(modules, inputs + outputs)
        self.deviation = torch.ones(modules, inputs + outputs)

    def fit(self, keys: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """The normaliser's statistics, once: predicting never changes them."""
        rows = [torch.cat(pair, 1).double() for pair in zip(keys, gradients, strict=True)]
        self.mean = torch.stack([r.mean(0) for r in rows]).float()
        self.deviation = torch.stack([r.std(0, correction=0) for r in rows]).float()

    def forward(self, m: int, keys: Tensor, gradients: Tensor) -> Tensor:
        z = normal = (torch.cat([keys, gradients], 1) - self.mean[m]) / self.deviation[m]
        for block in self.blocks:
            z = block(z, m)
        alignment = (z[:, : self.inputs] * normal[:, : self.inputs]).sum(1, keepdim=True) / self.inputs
        return -self.log_step[m].exp() * alignment * z[:, self.inputs :]

    def ridge(self, m: int) -> Tensor:
        return self.log_ridge[m].exp() + 1e-6


class Malmen:
    """A language model, the modules that are edited, and the hypernetwork."""

    def __init__(self, folder: str, layers: int = 6) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model: Any = (
            AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
        )
        depth = len(self.model.model.layers)
        self.names = [f"model.layers.{i}.mlp.down_proj" for i in range(depth - layers, depth)]
        self.modules = [self.model.get_submodule(name) for name in self.names]
        outputs, inputs = self.modules[0].weight.shape
        self.network = HyperNetwork(len(self.names), inputs, outputs)

    def encode(self, prompt: str, target: str) -> Sequence_:
        start = len(self.tokenizer(prompt)["input_ids"])
        return self.tokenizer(f"{prompt} {target}")["input_ids"], start

    def logits(self, sequence: Sequence_, weights: dict[str, Tensor] | None = None) -> Tensor:
        """Logits that predict the answer's tokens."""
        ids, start = sequence
        inputs = {"input_ids": torch.tensor([ids[:-1]]), "use_cache": False}
        named = {f"{name}.weight": weight for name, weight in (weights or {}).items()}
        found: Tensor = functional_call(self.model, named, (), inputs).logits[0, start - 1 :]
        return found

    def loss(self, sequence: Sequence_, weights: dict[str, Tensor] | None = None) -> Tensor:
        answer = torch.tensor(sequence[0][sequence[1] :])
        return cross_entropy(self.logits(sequence, weights), answer, reduction="sum")

    def capture(self, sequences: Sequence[Sequence_]) -> tuple[list[Tensor], list[Tensor]]:
        """Keys (inputs of the modules) and output gradients at the answer tokens, on the base."""
        rows = []
        for sequence in sequences:
            seen: list[tuple[Tensor, Tensor]] = []

            def hook(_: Any, given: Any, output: Tensor, seen: Any = seen) -> None:
                seen.append((given[0].detach(), output.requires_grad_()))

            handles = [module.register_forward_hook(hook) for module in self.modules]
            gradients = torch.autograd.grad(self.loss(sequence), [output for _, output in seen])
            for handle in handles:
                handle.remove()
            start = sequence[1] - 1
            rows.append([(k[0, start:], g[0, start:]) for (k, _), g in zip(seen, gradients, strict=True)])
        pairs = [tuple(map(torch.cat, zip(*module, strict=True))) for module in zip(*rows, strict=True)]
        return [k for k, _ in pairs], [g for _, g in pairs]

    def shifts(self, keys: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
        """Equation 4: ``S = (K'K + λI)⁻¹ K'D`` for each module, in float64."""
        found = []
        for m, (K, G) in enumerate(zip(keys, gradients, strict=True)):
            D, K = self.network(m, K, G).double(), K.double()
            gram = K.T @ K + self.network.ridge(m).double() * torch.eye(K.shape[1], dtype=torch.float64)
            found.append(torch.linalg.solve(gram, K.T @ D))
        return found

    def weights(self, shifts: Sequence[Tensor]) -> dict[str, Tensor]:
        """``W + S``; the base's own weights are never written to."""
        modules = zip(self.names, self.modules, shifts, strict=True)
        return {name: (module.weight.double() + S.T).float() for name, module, S in modules}

    def meta_step(self, facts: Sequence[tuple[str, str, str, str]]) -> float:
        """Section 3.3: the meta loss's gradient, added to the hypernetwork's ``.grad``; returns the loss.

        The language model is back-propagated to ``S`` alone. With ``E = (K'K + λI)⁻¹ ∂L/∂S``, ``∂L/∂D = K E`` and
        ``∂L/∂λ = -⟨E, S⟩``, so the hypernetwork's graph is never joined to the language model's.
        """
        keys, gradients = self.capture([self.encode(prompt, target) for prompt, target, _, _ in facts])
        with torch.no_grad():
            shifts = self.shifts(keys, gradients)
        weights = {name: weight.requires_grad_() for name, weight in self.weights(shifts).items()}
        total = 0.0
        for prompt, target, rephrasing, neighbour in facts:
            ids = self.tokenizer(neighbour)["input_ids"]
            before, after = (self.logits(([*ids, 0], len(ids)), w).log_softmax(1) for w in (None, weights))
            loss = kl_div(after, before, log_target=True, reduction="batchmean")
            for text in (prompt, rephrasing):
                sequence = self.encode(text, target)
                loss = loss + self.loss(sequence, weights) / (len(sequence[0]) - sequence[1])
            (loss / len(facts)).backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach()) / len(facts)
        for m, (name, K, G, S) in enumerate(zip(self.names, keys, gradients, shifts, strict=True)):
            ridge = self.network.ridge(m)
            gram = K.double().T @ K.double() + ridge.detach().double() * torch.eye(
                K.shape[1], dtype=torch.float64
            )
            gradient = weights[name].grad
            assert gradient is not None
            E = torch.linalg.solve(gram, gradient.double().T)
            self.network(m, K, G).backward((K.double() @ E).float())
            ridge.backward(-(E * S).sum().float())  # type: ignore[no-untyped-call]
        return total

    def edit(self, sequences: Sequence[Sequence_]) -> dict[str, Tensor]:
        """New weights of the edited modules."""
        keys, gradients = self.capture(sequences)
        with torch.no_grad():
            return self.weights(self.shifts(keys, gradients))

    def answer(self, prompt: str, weights: dict[str, Tensor], tokens: int = 4) -> str:
        """Greedy continuation."""
        ids = list(self.tokenizer(prompt)["input_ids"])
        for _ in range(tokens):
            ids.append(int(self.logits(([*ids, 0], len(ids)), weights).argmax()))
        return str(self.tokenizer.decode(ids[-tokens:]))


def main(folder: str) -> None:
    torch.manual_seed(0)
    malmen = Malmen(folder)
    sequences = [malmen.encode(prompt, target) for prompt, target, _, _ in FACTS]
    malmen.network.fit(*malmen.capture(sequences))
    optimiser = torch.optim.Adam(malmen.network.parameters(), lr=1e-3)
    for step in range(10):
        optimiser.zero_grad()
        print(f"step {step}: meta loss {malmen.meta_step(FACTS):.3f}")
        optimiser.step()
    weights = malmen.edit(sequences)
    for prompt, target, *others in FACTS:
        for text in (prompt, *others):
            print(f"{text!r}: {malmen.answer(text, {})!r} -> {malmen.answer(text, weights)!r} ({target})")


if __name__ == "__main__":
    main(sys.argv[1])
