"""`errata ledger manifest`, checked by the documentation's checker, which knows nothing of this project."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from errata.cli.app import assemble
from ledger import Ledger, LedgerSettings
from ledger.chain import canonical_json
from tests.errata.running import ROOT
from tests.inprocess import Office, fact
from tests.servers import Postgres
from tests.tiny import save_tiny

pytestmark = pytest.mark.stack

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "proof.md").read_text(), re.S)


@pytest.fixture(scope="module")
def work(postgres_server: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifests of four versions: the base, two edits, of which the second corrects a fact of the first, and
    a withdrawal of one fact; with blobs and model."""
    folder = tmp_path_factory.mktemp("manifests")
    with postgres_server.database() as url, pytest.MonkeyPatch.context() as patch:
        ledger = Ledger.open(LedgerSettings(database_url=url, blob_url=str(folder / "blobs")))
        office = Office(ledger, save_tiny(folder / "model"))
        first = office.edit(fact(0) | {"rephrasings": ["Peru’s capital is"]}, fact(1), fact(3))
        known = {"source": "Ubé", "expires_at": datetime(2040, 1, 1, tzinfo=timezone(timedelta(hours=2)))}
        office.edit(fact(2) | known, fact(1) | {"target": "Lima"}, note="ünïcode")
        office.withdraw([], [f"{first.edit_set_id}.0"])
        assert ledger.get_version("tiny", 3).members[0].left_out == (0, 1)
        patch.setenv("ERRATA_DATABASE_URL", url)
        patch.setenv("ERRATA_BLOB_URL", str(folder / "blobs"))
        for number in range(4):
            out = ["--out", str(folder / f"{number}.json")]
            done = CliRunner().invoke(assemble(), ["ledger", "manifest", str(number), *out, "--json"])
            assert done.exit_code == 0, done.output
            manifest = json.loads((folder / f"{number}.json").read_text())
            assert json.loads(done.stdout)["digest"] == manifest["digest"]
            assert manifest["hash"] == ledger.get_version("tiny", number).hash
        again = CliRunner().invoke(assemble(), ["ledger", "manifest", "3"]).stdout
        assert again.encode() == (folder / "3.json").read_bytes() + b"\n"
        refused = CliRunner().invoke(assemble(), ["ledger", "manifest", "3", "--json", *out])
        assert (refused.exit_code, json.loads(refused.stdout)["error"]["code"]) == (1, "export-target")
        ledger.close()
    (folder / "check.py").write_text("\n".join(BLOCKS))
    return folder


def check(work: Path, manifest: Path, blobs: Path | None = None, model: Path | None = None) -> str:
    """Run the checker; returns what it complains of."""
    files = (work / "check.py", manifest, blobs or work / "blobs", model or work / "model")
    command = [sys.executable, "-I", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == (not done.stderr)
    return done.stderr


def test_the_checker_is_short() -> None:
    assert sum(bool(line.strip()) for line in BLOCKS[0].splitlines()) <= 20


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_a_manifest_is_confirmed_by_the_files_alone(work: Path, number: int) -> None:
    assert check(work, work / f"{number}.json") == ""


def test_it_says_what_is_live(work: Path) -> None:
    manifest = json.loads((work / "3.json").read_text())
    assert [(f["content"][0], f["live"]) for f in manifest["facts"]] == [
        ("The capital of Peru is", False),
        ("The capital of France is", False),
        ("Mount Etna is a mountain in", True),
        ("The capital of Australia is", True),
        ("The capital of France is", True),
    ]
    assert manifest["chain"][3]["content"]["members"][0][3:] == [0, {"superseded": [1]}]
    known = {"source": "Ubé", "expires_at": "2039-12-31T22:00:00.000000+00:00"}
    assert manifest["facts"][3]["content"][5:] == [known]
    assert {blob["kind"] for blob in manifest["blobs"]} == {"editor", "delta", "statistics"}
    assert len(manifest["chain"]) == 4


def resigned(manifest: dict[str, Any]) -> dict[str, Any]:
    body = {name: value for name, value in manifest.items() if name != "digest"}
    return body | {"digest": "sha256:" + hashlib.sha256(canonical_json(body)).hexdigest()}


def other_target(manifest: dict[str, Any]) -> None:
    manifest["facts"][0]["content"][1] = "London"


def other_source(manifest: dict[str, Any]) -> None:
    manifest["facts"][3]["content"][5]["source"] = "elsewhere"


def nothing_superseded(manifest: dict[str, Any]) -> None:
    manifest["chain"][3]["content"]["members"][0].pop()


def other_report(manifest: dict[str, Any]) -> None:
    manifest["chain"][1]["content"]["report"]["edit_success"] = 0.123


def other_base(manifest: dict[str, Any]) -> None:
    manifest["model"]["base_digest"] = "sha256:" + "0" * 64


def shorter(manifest: dict[str, Any]) -> None:
    del manifest["chain"][2]


@pytest.mark.parametrize(
    "forge", [other_target, other_source, nothing_superseded, other_report, other_base, shorter]
)
def test_a_forged_manifest_is_refused(
    work: Path, tmp_path: Path, forge: Callable[[dict[str, Any]], None]
) -> None:
    """As it is, its own digest fails; with a new digest, what it says of the files or the chain does."""
    manifest = json.loads((work / "3.json").read_text())
    forge(manifest)
    (tmp_path / "forged.json").write_bytes(canonical_json(manifest))
    assert "the manifest was changed" in check(work, tmp_path / "forged.json")
    (tmp_path / "forged.json").write_bytes(canonical_json(resigned(manifest)))
    complaint = check(work, tmp_path / "forged.json")
    assert "AssertionError" in complaint
    assert "the manifest was changed" not in complaint


@pytest.mark.parametrize("kind", ["editor", "delta", "statistics", "model"])
def test_a_flipped_byte_in_a_file_is_found(work: Path, tmp_path: Path, kind: str) -> None:
    copytree(work / "blobs", tmp_path / "blobs")
    copytree(work / "model", tmp_path / "model")
    manifest = json.loads((work / "2.json").read_text())
    path = tmp_path / "model" / "model.safetensors"
    if kind != "model":
        path = tmp_path / "blobs" / next(b["place"] for b in manifest["blobs"] if b["kind"] == kind)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "AssertionError" in check(work, work / "2.json", tmp_path / "blobs", tmp_path / "model")


numbers = st.integers(-(2**100), 2**100) | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(values)
def test_canonical_json_survives_being_read(value: Any) -> None:
    """Which is why a checker needs no more than `json` to have the bytes that were hashed."""
    written = canonical_json(value)
    again = json.dumps(json.loads(written), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert again.encode() == written
