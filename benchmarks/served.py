"""A service of the default model on a data directory of its own, with workers, for as long as a block lasts."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from errata.client import Client
from errata.settings import StackSettings
from errata.stack.stack import Stack, StackOptions


def say(words: str) -> None:
    """Tell on standard error what is going on."""
    print(words, file=sys.stderr, flush=True)


@contextmanager
def serving() -> Iterator[tuple[Client, str]]:
    """A client with the admin key, and the id of the model, which is ready."""
    data_dir = Path(tempfile.mkdtemp(prefix="errata-benchmark-"))
    stack = Stack(StackOptions(data_dir, port=0, own_servers=True), StackSettings())
    stack.use_voice(say)
    try:
        stack.open()
        stack.start()
        stack.register_model()
        stack.wait_for_model(say)
        with stack.client() as client:
            yield client, stack.model_id
    finally:
        stack.stop()
        shutil.rmtree(data_dir, ignore_errors=True)
