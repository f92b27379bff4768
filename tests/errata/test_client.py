"""The clients against the real service: a test plays the worker."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

import errata
from errata.client.resources import EditSet
from ledger.edits import edit_sets, withdrawals
from ledger.models import models
from ledger.versions import versions
from tests import servers
from tests.harness import tiny_editor
from tests.service import player
from tests.service.harness import ADMIN, Running, register, running

T = TypeVar("T")
FACTS = [{"prompt": f"The capital of {name} is", "target": "Canberra"} for name in ("Peru", "France")]


@pytest.fixture(scope="module")
def service(
    postgres_server: servers.Postgres, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """The application with one ready model, `tiny`."""
    with (
        postgres_server.database() as url,
        servers.valkey() as valkey,
        running(url, valkey.connection_url, tmp_path_factory.mktemp("service")) as found,
    ):
        register(found.ledger, tiny_folder)
        player.prepare(found.ledger)
        yield found


@pytest.fixture
def client(service: Running) -> Iterator[errata.Client]:
    with errata.Client(service.url, ADMIN) as made:
        yield made


def run(service: Running, work: Callable[[errata.AsyncClient], Any]) -> Any:
    """What an asynchronous piece of work gives."""

    async def whole() -> Any:
        async with errata.AsyncClient(service.url, ADMIN) as made:
            return await work(made)

    return asyncio.run(whole())


def apply(service: Running, edit: EditSet) -> None:
    player.finish(service.ledger, service.ledger.run(edit_sets.get, edit.id).job_id)


def void(_: object) -> None:
    """Nothing, whatever was given."""


def later(work: Callable[[], None], seconds: float = 0.3) -> threading.Timer:
    timer = threading.Timer(seconds, work)
    timer.start()
    return timer


def test_an_edit_set_is_created_waited_for_and_looked_at(service: Running, client: errata.Client) -> None:
    edit = client.edits.create("tiny", FACTS, note="atlas", gate={"locality": 0.5})
    assert (edit.status, edit.note, edit.fact_count) == ("queued", "atlas", 2)
    seen: list[str] = []
    timer = later(lambda: apply(service, edit))
    done = client.edits.wait(edit, on_progress=lambda state: seen.append(state.status), timeout=20)
    timer.join()
    assert done.succeeded
    assert done == client.edits.get(edit.id)
    assert (seen[0], seen[-1]) == ("queued", done.status)
    assert [fact.prompt for fact in client.edits.facts(edit.id)] == [fact["prompt"] for fact in FACTS]
    with pytest.raises(AttributeError, match="no 'colour'"):
        _ = done.colour
    assert "atlas" in repr(done)


def test_lists_are_walked_page_by_page(service: Running, client: errata.Client) -> None:
    made = {client.edits.create("tiny", FACTS, note="many").id for _ in range(4)}
    found = client.edits.list(model="tiny", status="queued", limit=2)
    assert made <= {edit.id for edit in found}
    for ident in made:
        assert client.edits.cancel(ident).status == "cancelled"
    assert next(iter(client.edits.list())).id in made


def test_facts_may_be_uploaded_as_they_come(service: Running, client: errata.Client) -> None:
    edit = client.edits.upload("tiny", iter(FACTS), promote="manual", dry_run=True)
    record = service.ledger.run(edit_sets.get, edit.id)
    assert (record.fact_count, record.promote, record.dry_run) == (2, "manual", True)
    client.edits.cancel(edit.id)


def test_models_versions_rollback_withdrawal_and_aliases(service: Running, client: errata.Client) -> None:
    tiny = client.models["tiny"]
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.only_model() == "tiny"
    assert client.find_model("nobody") is None
    edit = client.edits.create("tiny", FACTS)
    apply(service, edit)
    live = tiny.version()
    assert {change.fact for change in tiny.changes(since=live.parent) if change.change == "added"}
    assert f"{edit.id}.0" in {fact.fact for fact in tiny.facts()}
    pending = tiny.withdraw("retracted", facts=[f"{edit.id}.0"])
    job_id = service.ledger.run(withdrawals.get, pending.id).job_id
    timer = later(lambda: void(player.finish(service.ledger, job_id)))
    assert tiny.wait(pending, timeout=20).kind == "withdraw"
    timer.join()
    back = tiny.rollback(0, "a test")
    assert (back.kind, back.live_fact_count) == ("rollback", 0)
    assert tiny.set_alias("stable", back.number).version == back.number
    assert tiny.get().aliases["stable"] == back.number
    tiny.delete_alias("stable")
    assert "stable" not in tiny.get().aliases
    assert next(version.number for version in tiny.versions()) == back.number
    assert client.ledger.verify().ok


def test_keys(client: errata.Client, service: Running) -> None:
    key = client.keys.create("newsroom", ["read"])
    with errata.Client(service.url, key.secret) as reader:
        assert reader.models.get("tiny").status == "ready"
        with pytest.raises(errata.ApiError) as refused:
            reader.edits.create("tiny", FACTS)
    assert (refused.value.status, refused.value.kind) == (403, "missing-scope")
    client.keys.revoke(key.id)
    assert next(each for each in client.keys.list() if each.id == key.id).revoked_at


def test_text_is_generated_streamed_and_compared(service: Running, client: errata.Client) -> None:
    tiny = client.models["tiny"]
    with player.writing(service.services.redis):
        answer = tiny.generate("The capital of Peru is", max_new_tokens=3, version="base")
        assert (answer.text, answer.version, answer.finish_reason) == (" word word word", 0, "length")
        assert "".join(tiny.stream("The capital of Peru is", max_new_tokens=3)) == " word word word"
        both = tiny.compare("The capital of Peru is", ["base", "live"], max_new_tokens=1)
        assert [each.text for each in both] == [" word", " word"]


def test_the_same_in_an_event_loop(service: Running) -> None:
    async def work(client: errata.AsyncClient) -> None:
        tiny = client.models["tiny"]
        edit = await client.edits.create("tiny", FACTS)
        seen: list[str] = []
        timer = later(lambda: apply(service, edit))
        done = await client.edits.wait(edit.id, on_progress=lambda s: seen.append(s.status), timeout=20)
        timer.join()
        assert done.succeeded
        assert seen[0] == "queued"
        assert len([fact async for fact in client.edits.facts(edit.id)]) == 2
        assert edit.id in [each.id async for each in client.edits.list(model="tiny")]
        uploaded = await client.edits.upload("tiny", iter(FACTS))
        assert (await client.edits.cancel(uploaded.id)).status == "cancelled"
        back = await tiny.rollback(0, "a test")
        assert back.number == (await tiny.version("live")).number
        assert [model.id async for model in client.models.list()] == ["tiny"]
        key = await client.keys.create("async", ["read"])
        await client.keys.revoke(key.id)
        assert (await client.ledger.verify()).ok
        with pytest.raises(errata.ApiError, match="nobody"):
            await client.models.get("nobody")
        withdrawn = await client.edits.wait(edit.id)
        assert withdrawn.id in [each.id async for each in client.edits.list(q="peru")]
        assert [fact.model async for fact in client.facts.search(q="peru", live=False)]
        assert [each.action async for each in client.audit.list(object=f"keys/{key.id}")] == [
            "key.revoke",
            "key.create",
        ]

    run(service, work)


def test_withdrawals_facts_editors_and_what_was_done(
    service: Running, client: errata.Client, tiny_folder: Path
) -> None:
    edit = client.edits.create("tiny", FACTS, note="atlas")
    apply(service, edit)
    assert edit.id in {found.id for found in client.edits.list(q="atlas", live=True, status=["succeeded"])}
    found = {fact.fact: fact for fact in client.facts.search(q="peru", live=True)}
    assert (found[f"{edit.id}.0"].model, found[f"{edit.id}.0"].live) == ("tiny", True)
    pending = client.models["tiny"].withdraw("retracted", edit_sets=[edit.id])
    job_id = service.ledger.run(withdrawals.get, pending.id).job_id
    seen: list[str] = []
    timer = later(lambda: void(player.finish(service.ledger, job_id)))
    done = client.withdrawals.wait(pending, on_progress=lambda state: seen.append(state.status), timeout=20)
    timer.join()
    assert (seen[0], done.status) == ("queued", "succeeded")
    assert done == client.withdrawals.get(pending.id)
    assert next(client.withdrawals.list(model="tiny", status="succeeded")).id == pending.id
    done_to = [event.action for event in client.audit.list(object=f"edits/{edit.id}")]
    assert done_to == ["edit_set.accept"]
    editor = client.editors.upload(tiny_editor(tiny_folder))
    model = client.models.register("with-editor", str(tiny_folder), editor=editor.digest)
    assert service.ledger.run(models.get, model.id).given_editor_digest == editor.digest
    client.models["with-editor"].archive()


def test_an_alias_is_moved_from_where_it_is_thought_to_be(client: errata.Client) -> None:
    tiny = client.models["tiny"]
    tiny.set_alias("stable", 0)
    with pytest.raises(errata.ApiError) as refused:
        tiny.set_alias("stable", 0, expected=1)
    assert (refused.value.status, refused.value.kind) == (412, "alias-moved")
    assert tiny.set_alias("stable", 0, expected=0).version == 0
    tiny.delete_alias("stable", expected=0)


class Losing(httpx.HTTPTransport):
    """Sends requests, and loses the answers to the first of them."""

    def __init__(self, lost: int) -> None:
        super().__init__()
        self.lost, self.sent = lost, 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.sent += 1
        response = super().handle_request(request)
        if self.sent <= self.lost:
            response.close()
            raise httpx.ReadError("the answer is lost", request=request)
        return response


def test_a_lost_answer_is_asked_for_again_under_the_same_key(service: Running) -> None:
    before = service.counts()["edit_sets"]
    transport = Losing(2)
    with errata.Client(service.url, ADMIN, transport=transport) as client:
        edit = client.edits.create("tiny", FACTS)
        assert transport.sent == 3
        client.edits.cancel(edit.id)
    assert service.counts()["edit_sets"] == before + 1


def test_what_is_sent_again_happens_once(service: Running) -> None:
    number = service.ledger.run(versions.get, "tiny", "live").number
    transport = Losing(1)
    with errata.Client(service.url, ADMIN, transport=transport) as client:
        made = client.models["tiny"].rollback(0, "a test")
        assert transport.sent == 2
    assert service.ledger.run(versions.get, "tiny", "live").number == number + 1 == made.number


def test_a_key_whose_secret_is_lost_is_not_asked_for_again(service: Running) -> None:
    transport = Losing(1)
    with errata.Client(service.url, ADMIN, transport=transport) as client:
        with pytest.raises(errata.Unreachable):
            client.keys.create("newsroom", ["read"])
        assert transport.sent == 1


def test_a_service_that_is_away_is_waited_for() -> None:
    started = time.monotonic()
    with errata.Client("http://127.0.0.1:9", "key", max_retries=2) as client:
        assert not client.answers()
        with pytest.raises(errata.Unreachable):
            client.models.get("tiny")
    assert 0.4 < time.monotonic() - started < 5


def test_waiting_has_an_end(client: errata.Client) -> None:
    edit = client.edits.create("tiny", FACTS)
    with pytest.raises(errata.WaitTimeout, match="is not done"):
        client.edits.wait(edit, timeout=0)
    client.edits.cancel(edit.id)
    assert client.edits.wait(edit).status == "cancelled"
    with pytest.raises(errata.ApiError, match="nothing"):
        client.edits.wait("nothing")


def test_address_and_key_come_from_the_environment(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERRATA_URL", service.url + "/")
    monkeypatch.setenv("ERRATA_KEY", ADMIN)
    with errata.Client() as client:
        assert client.url == service.url
        assert client.models.get("tiny").id == "tiny"


def test_the_client_is_imported_quickly_and_without_torch() -> None:
    program = (
        "import time; started = time.process_time(); import errata, sys; errata.Client; errata.AsyncClient;"
        "print(time.process_time() - started, 'torch' in sys.modules, 'pydantic' in sys.modules)"
    )
    found = [
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(3)
    ]
    assert {(torch, pydantic) for _, torch, pydantic in found} == {("False", "False")}
    assert min(float(seconds) for seconds, _, _ in found) < 0.3
