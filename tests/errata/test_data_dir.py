"""The data directory: its lock, its layout, and addresses on this machine."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from errata.client.names import model_id_of
from errata.errors import AlreadyRunning, PortTaken
from errata.stack.addresses import client_url, free_port, require_free
from errata.stack.layout import lay_out
from errata.stack.lock import DataDirLock, StackNote, read_note
from errata.stack.stack import resolve_source

NOTE = StackNote(os.getpid(), "http://127.0.0.1:8000", "admin.key")


def test_a_second_holder_is_told_the_first_ones_address(tmp_path: Path) -> None:
    first = DataDirLock(tmp_path)
    first.acquire(NOTE)
    with pytest.raises(AlreadyRunning, match=r"http://127\.0\.0\.1:8000"):
        DataDirLock(tmp_path).acquire(NOTE)
    assert read_note(tmp_path) == NOTE
    first.release()
    assert read_note(tmp_path) is None
    second = DataDirLock(tmp_path)
    second.acquire(NOTE)
    second.release()
    second.release()


def test_the_note_of_a_dead_process_is_nobodys(tmp_path: Path) -> None:
    (tmp_path / "up.json").write_text(json.dumps({"pid": 2**22 + 1, "url": "http://x", "key_file": "k"}))
    assert read_note(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}'])
def test_a_damaged_note_is_no_note(tmp_path: Path, text: str) -> None:
    (tmp_path / "up.json").write_text(text)
    assert read_note(tmp_path) is None


def test_sockets_stay_in_the_data_directory_where_they_fit() -> None:
    with TemporaryDirectory() as short:  # pytest's own are too long where several processes share a run
        assert lay_out(Path(short)).run_dir == Path(short) / "run"


def test_a_long_path_gets_sockets_elsewhere_that_are_removed(tmp_path: Path) -> None:
    layout = lay_out(tmp_path / ("long" * 30))
    assert len(str(layout.run_dir)) < 60
    assert layout.run_dir.is_dir()
    layout.remove_run_dir()
    assert not layout.run_dir.exists()


def test_a_taken_port_is_named() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(PortTaken, match=str(port)):
            require_free("127.0.0.1", port)
    require_free("127.0.0.1", free_port("127.0.0.1"))


def test_a_host_that_is_not_of_this_machine_is_named() -> None:
    with pytest.raises(PortTaken, match=r"192\.0\.2\.1"):
        require_free("192.0.2.1", 8000)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::1", "http://[::1]:80"),
        ("::", "http://[::1]:80"),
    ],
)
def test_the_address_for_clients(host: str, url: str) -> None:
    assert client_url(host, 80) == url


@pytest.mark.parametrize(
    ("source", "model_id"),
    [
        ("HuggingFaceTB/SmolLM2-360M", "smollm2-360m"),
        ("/models/My Model/", "my-model"),
        ("gpt2", "gpt2"),
        ("../..", "model"),
    ],
)
def test_ids_of_models(source: str, model_id: str) -> None:
    assert model_id_of(source) == model_id


def test_a_source_too_long_for_a_path_is_none(tmp_path: Path) -> None:
    assert resolve_source("a" * 300) == "a" * 300
    assert resolve_source(f"{tmp_path}/.") == str(tmp_path)
