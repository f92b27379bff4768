from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from ledger.blobs.store import LocalBlobs
from ledger.errors import BlobCorrupt, BlobMissing
from malmen_core.editing.editor import Editor
from malmen_core.evaluation.verify import record_canaries
from malmen_core.models.base import BaseModel
from malmen_core.models.delta import Change, Delta
from tests.harness import tiny_editor
from worker.resident import Resident


def make_delta(base: BaseModel, seed: int) -> Delta:
    torch.manual_seed(seed)
    return Delta({name: Change(dense_UV=0.01 * torch.randn(m.shape)) for name, m in base.modules.items()})


@pytest.fixture
def blobs(tmp_path: Path) -> LocalBlobs:
    return LocalBlobs(tmp_path / "blobs")


@pytest.fixture
def resident(tiny_folder: Path, blobs: LocalBlobs) -> Resident:
    base = BaseModel.load(str(tiny_folder), device="cpu")
    return Resident(
        "tiny", base, Editor.from_bytes(tiny_editor(tiny_folder)), record_canaries(base), blobs, 2
    )


def test_the_latest_versions_stay_and_the_base_always(resident: Resident, blobs: LocalBlobs) -> None:
    digests = [blobs.put(make_delta(resident.base, seed).to_bytes()) for seed in range(3)]
    base = resident.version(None)
    first = resident.version(digests[0])
    assert resident.version(digests[0]) is first
    for digest in digests[1:]:
        resident.version(digest)
    assert set(resident.cached()) == {"base", *digests[1:]}
    assert resident.version(None) is base
    again = resident.version(digests[0])
    assert again is not first
    assert again.weights_digest == first.weights_digest != base.weights_digest


def test_threads_that_ask_at_once_share_one_version(resident: Resident, blobs: LocalBlobs) -> None:
    digest = blobs.put(make_delta(resident.base, 0).to_bytes())
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: resident.version(digest), range(16)))
    assert len({id(version) for version in made}) == 1


def test_a_blob_that_is_missing_or_changed_is_refused(resident: Resident, blobs: LocalBlobs) -> None:
    digest = blobs.put(make_delta(resident.base, 0).to_bytes())
    path = blobs.root / blobs.place(digest)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(BlobCorrupt):
        resident.version(digest)
    path.unlink()
    with pytest.raises(BlobMissing):
        resident.version(digest)
    assert resident.cached() == ()


def test_versions_leave_the_base_as_it_was(resident: Resident, blobs: LocalBlobs) -> None:
    before = resident.base.parameters_digest()
    resident.version(blobs.put(make_delta(resident.base, 0).to_bytes()))
    assert resident.base.parameters_digest() == before
