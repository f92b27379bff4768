"""Blobs are whole and named, and each version's weights are the checkpoint plus its delta."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from pathlib import Path

import torch
from safetensors.torch import load, load_file

from tests.nemesis.checker.digests import canonical, sha256
from tests.nemesis.checker.evidence import MODEL, Evidence, Verdict


def check(evidence: Evidence, verdict: Verdict) -> None:
    """Read every blob, and add each delta to the checkpoint again."""
    _check_weights(evidence, verdict, _check_blobs(evidence, verdict))


def _check_blobs(evidence: Evidence, verdict: Verdict) -> dict[str, Path]:
    """Check every blob, and return the files of those that are whole."""
    stored = {f"sha256:{path.name}": path for path in evidence.blobs.glob("sha256/??/*")}
    verdict.lost += [f"blob {digest}" for digest in evidence.named.keys() - stored.keys()]
    whole = {digest: path for digest, path in stored.items() if sha256(path.read_bytes()) == digest}
    for digest, path in stored.items():
        if digest not in evidence.named:
            verdict.unexplained.append(f"blob {path.name} is left, and nothing names it")
        elif digest not in whole:
            verdict.lost.append(f"blob {digest}, whose bytes are others")
    for path in evidence.blobs.glob("incoming/*"):
        verdict.unexplained.append(f"{path.name} is left half written")
    used = {row["delta_digest"] for row in evidence.versions}
    used |= {row["statistics_digest"] for row in evidence.memberships}
    for digest in used - {None} - evidence.named.keys():
        verdict.unexplained.append(f"blob {digest} is used without being named")
    return whole


def _check_weights(evidence: Evidence, verdict: Verdict, whole: dict[str, Path]) -> None:
    base = load_file(evidence.checkpoint / "model.safetensors")
    modules = evidence.models[MODEL]["modules"]
    seen: dict[str | None, str] = {}
    by_members: defaultdict[bytes, set[str]] = defaultdict(set)
    for row in evidence.versions:
        digest = row["delta_digest"]
        if digest not in seen:
            if digest is not None and digest not in whole:
                continue  # which _check_blobs has found
            delta = {} if digest is None else load(whole[digest].read_bytes())
            seen[digest] = _weights_digest(base, modules, delta)
        if seen[digest] != row["weights_digest"]:
            verdict.unexplained.append(f"the weights of version {row['number']} are not base + delta")
        members = sorted(map(evidence.member, evidence.held(row["number"]).values()), key=str)
        by_members[canonical(members)].add(row["weights_digest"])
    for held, weights in by_members.items():
        if len(weights) > 1:
            what = f"{sorted(weights)}, {held[:200]!r}"
            verdict.unexplained.append(f"the same facts gave different weights: {what}")


def _weights_digest(base: dict[str, torch.Tensor], modules: list[str], delta: dict[str, torch.Tensor]) -> str:
    found = hashlib.sha256()
    for name in modules:
        total = base[f"{name}.weight"].T
        change = None
        if f"{name}:dense" in delta:
            change = delta[f"{name}:dense"].double()
        elif f"{name}:left" in delta:
            change = delta[f"{name}:left"].double() @ delta[f"{name}:right"].double()
        if change is not None:
            total = (total.double() + change).float()
        found.update(f"{name} {tuple(total.shape)} {total.dtype}\n".encode())
        found.update(total.contiguous().numpy().tobytes())
    return f"sha256:{found.hexdigest()}"
