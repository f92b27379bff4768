"""Bad and changed checkpoints: what is served is what was registered, or the model says why it is not."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from redis import Redis
from safetensors.torch import load_file, save_file

from broker import presence
from broker.connection import connect
from broker.errors import ModelNotServed
from broker.generation import GenerationCall, TextRequest
from broker.settings import BrokerSettings
from malmen_core.models.base import BaseModel
from tests import asking
from tests.harness import MODEL, Backend, backend, eventually, tiny_editor, wait_stopped
from tests.tiny import save_tiny
from worker.preparing import own_weights

pytestmark = pytest.mark.stack


@pytest.fixture
def own(database_url: str, redis_url: str, tmp_path: Path, tiny_folder: Path) -> Iterator[Backend]:
    """A back end with a checkpoint of its own, which may be changed; the model is not registered."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "checkpoint"))
    with backend(database_url, redis_url, tmp_path, folder) as made:
        yield made


def redis_of(back: Backend) -> Redis:
    return connect(BrokerSettings(redis_url=back.redis_url))


def states(back: Backend) -> list[str]:
    return [worker.state for worker in presence.workers(redis_of(back), MODEL)]


def answer(back: Backend) -> str:
    request = TextRequest(prompt="The capital of Peru is", max_new_tokens=12)
    call = GenerationCall(
        id=uuid4().hex, model_id=MODEL, version=0, request=request, deadline=time.time() + 30
    )
    asking.send(redis_of(back), call)
    return str(asking.replies(redis_of(back), call)[-1]["text"])


def damage_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 3] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def grow_tokenizer(folder: Path) -> None:
    file = folder / "tokenizer.json"
    found = json.loads(file.read_text())
    vocabulary = found["model"]["vocab"]
    vocabulary |= {f"extra{n}": len(vocabulary) + n for n in range(50)}
    file.write_text(json.dumps(found))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (damage_weight, "model.layers.1.mlp.up_proj.weight"),
        (grow_tokenizer, "The tokenizer has"),
    ],
)
def test_a_bad_checkpoint_fails_with_its_reason(
    own: Backend, spoil: Callable[[Path], None], says: str
) -> None:
    spoil(own.folder)
    own.register()
    worker = own.start_worker()
    failed = own.wait_model("failed")
    assert failed.error is not None
    assert failed.error["code"] == "model-not-loadable"
    assert says in failed.error["detail"]
    eventually("the announcement", lambda: says in states(own)[0])
    assert worker.poll() is None
    shutil.rmtree(own.folder)
    save_tiny(own.folder)
    own.register(tiny_editor(own.folder))
    own.wait_ready()


def test_a_checkpoint_that_stops_at_strings_is_served(own: Backend) -> None:
    """What a checkpoint says of decoding acts nowhere, so it can end no process either."""
    file = own.folder / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "stop_strings": ["."]}))
    own.register(tiny_editor(own.folder))
    own.start_worker()
    own.wait_ready()


def test_a_model_whose_preparation_ends_the_process_fails_in_the_end(own: Backend) -> None:
    own.register()  # to be calibrated
    presence.count_attempt(redis_of(own), MODEL)
    presence.count_attempt(redis_of(own), MODEL)
    presence.count_attempt(redis_of(own), MODEL)
    own.start_worker()
    failed = own.wait_model("failed")
    assert "ended the worker's process 3 times" in str(failed.error)
    own.register(tiny_editor(own.folder))
    own.wait_ready()


def test_a_checkpoint_overwritten_in_place_changes_no_answer_and_is_noticed(own: Backend) -> None:
    own.register(tiny_editor(own.folder))
    worker = own.start_worker()
    own.wait_ready()
    eventually("idle", lambda: states(own) == ["idle"])
    before = answer(own)
    file = own.folder / "model.safetensors"
    sound = file.read_bytes()
    weights = {name: tensor.flip(0).contiguous() for name, tensor in load_file(file).items()}
    with file.open("r+b") as stream:
        save_file(weights, own.folder / "other", {"format": "pt"})
        stream.write((own.folder / "other").read_bytes())
    assert answer(own) == before
    eventually("the notice", lambda: "files have changed" in states(own)[0])
    own.wait_for(own.post())
    file.write_bytes(b"")
    assert answer(own) == before
    worker.send_signal(signal.SIGTERM)
    worker.wait(10)
    own.start_worker()
    eventually("the refusal", lambda: bool(states(own)) and states(own)[0].startswith("failed: "))
    with pytest.raises(ModelNotServed):
        answer(own)
    file.write_bytes(sound)
    eventually("its return", lambda: states(own) == ["idle"], 40)
    assert answer(own) == before


def test_own_weights_are_in_no_file(tmp_path: Path) -> None:
    base = BaseModel.load(str(save_tiny(tmp_path)), device="cpu")
    own_weights(base)
    before = base.parameters_digest()
    size = (tmp_path / "model.safetensors").stat().st_size
    with (tmp_path / "model.safetensors").open("r+b") as stream:
        stream.write(bytes(size))
    assert base.parameters_digest() == before


def test_weights_of_another_kind_than_were_registered_are_refused(own: Backend) -> None:
    own.register(tiny_editor(own.folder))
    first = own.start_worker()
    own.wait_ready()
    first.send_signal(signal.SIGTERM)
    first.wait(10)
    own.start_worker(ERRATA_DTYPE="bfloat16")
    eventually("the refusal", lambda: "was verified" in (states(own) or [""])[0])


def test_an_edit_that_is_killed_takes_no_answer_with_it(own: Backend) -> None:
    own.register(tiny_editor(own.folder))
    generating = own.start_worker(ERRATA_ROLE="generate")
    editing = own.start_worker(
        ERRATA_ROLE="edit",
        ERRATA_FAULTS="1",
        ERRATA_FAULT_POINT="after_statistics",
        ERRATA_FAULT_ACTION="stop",
    )
    own.wait_ready()
    eventually("both", lambda: states(own) == ["idle", "idle"])
    roles = {worker.role for worker in presence.workers(redis_of(own), MODEL)}
    assert roles == {"edit", "generate"}
    before = answer(own)
    edit_set = own.post()
    wait_stopped(editing)
    assert answer(own) == before
    editing.kill()
    assert answer(own) == before
    own.start_worker(ERRATA_ROLE="edit")
    own.wait_for(edit_set)
    assert generating.poll() is None
