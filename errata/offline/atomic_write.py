"""Files and folders that are whole when they are there: written beside their place and renamed."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from errata.errors import ExportTarget


@contextmanager
def arriving(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside the target, which becomes the target unless the block raises.

    Raises:
        ExportTarget: The target is a file, or a folder with something in it; or it cannot be written there.
    """
    target = target.absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ExportTarget(
            f"{target} exists already.", "Name a folder that is not there yet, or an empty one."
        )
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft.mkdir()
        yield draft
        draft.rename(target)
    except OSError as error:
        raise ExportTarget(
            f"{target} cannot be written: {error}", "Check its place and free space."
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def writing(target: Path) -> Iterator[Path]:
    """Yield a path beside the target, to be written; it becomes the target unless the block raises.

    Raises:
        ExportTarget: The target exists, or cannot be written.
    """
    target = target.absolute()
    if target.exists():
        raise ExportTarget(f"{target} exists already.", "Name a file that is not there.")
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        draft.rename(target)
    except OSError as error:
        raise ExportTarget(f"{target} cannot be written: {error}", "Check place and free space.") from error
    finally:
        draft.unlink(missing_ok=True)
