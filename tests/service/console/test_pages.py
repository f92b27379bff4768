"""What each page shows, and what its forms do; a test plays the worker."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ledger.edits import edit_sets, withdrawals
from ledger.jobs import commit, jobs
from ledger.models import models
from ledger.records import FactReport
from service.console.rendering import marked
from tests.service import player
from tests.service.console.browsing import Browser, sign_in, text_of
from tests.service.harness import Running

CAPITAL = {
    "model": "tiny",
    "prompt": "The capital of Australia is",
    "target": "Canberra",
    "subject": "Australia",
}


@pytest.fixture(scope="module", autouse=True)
def ready(service: Running) -> None:
    player.prepare(service.ledger)


@pytest.fixture
def browser(service: Running) -> Browser:
    return sign_in(service)


def post(browser: Browser, **fields: Any) -> str:
    """Post an edit set of one fact by the form, and return its id."""
    browser.post("/edits", **{**CAPITAL, **fields})
    assert re.fullmatch(r"/edits/es_\w+", browser.address)
    return browser.address.rpartition("/")[2]


def apply(service: Running, browser: Browser, **fields: Any) -> tuple[str, int]:
    """Post an edit set, play the worker, and return its id and its version."""
    ident = post(browser, **fields)
    made = player.finish(service.ledger, service.ledger.run(edit_sets.get, ident).job_id)
    return ident, made.number


def test_models(service: Running, browser: Browser) -> None:
    ident, number = apply(service, browser, prompt="The capital of Peru is", subject="Peru", target="Lima")
    page = text_of(browser.get("/models"))
    assert f"Live version {number} " in page
    assert re.search(r"Facts live [1-9]", page)
    assert "✗ none" in page, "no worker is there"
    assert ident in browser.get("/models")


def test_registering(service: Running, browser: Browser, checkpoint: Path) -> None:
    assert "cannot be loaded" in text_of(
        browser.post("/models", 422, id="new", source=str(checkpoint / "no"))
    )
    browser.post("/models", id="another", source=str(checkpoint), **{"gate.locality": "0.5"})
    assert browser.address == "/models"
    assert "It waits for a worker" in text_of(browser.get("/models/another/card"))
    service.ledger.run(models.note_progress, "another", "calibrating", 3, 8)
    assert 'max="8" value="3"></progress> calibrating' in browser.get("/models/another/card")
    assert "Architecture" in browser.get("/models/another")
    assert service.client().get("/models/another").json()["gate"]["locality"] == 0.5
    browser.post("/models/another/archive")
    assert "another" not in text_of(browser.get("/models"))


def test_the_form_of_one_fact(service: Running, browser: Browser) -> None:
    assert "Statement" in browser.get("/edits/new")
    ident = post(
        browser,
        question="What is the capital of Australia?",
        rephrasings="Australia's capital is\n\n Australia is governed from \n",
        locality="The capital of Peru is",
        hold="The capital of France is",
        author="Ann",
        ticket="T-7",
        source="https://example.org/atlas",
        promote="manual",
        note="by hand",
        **{"gate.edit_success": "0.75"},
    )
    client = service.client()
    edit = client.get(f"/edits/{ident}").json()
    assert (edit["promote"], edit["note"], edit["gate"]) == ("manual", "by hand", {"edit_success": 0.75})
    (fact,) = client.get(f"/edits/{ident}/facts").json()["items"]
    assert fact["rephrasings"] == ["Australia's capital is", "Australia is governed from"]
    assert fact["locality"] == [
        {"prompt": "The capital of France is", "target": None, "hold": True},
        {"prompt": "The capital of Peru is", "target": None},
    ]
    assert (fact["author"], fact["ticket"], fact["question"]) == (
        "Ann",
        "T-7",
        "What is the capital of Australia?",
    )
    browser.post(f"/edits/{ident}/cancel")
    assert "cancelled" in text_of(browser.get(f"/edits/{ident}"))


def test_a_bad_form_names_its_fields_and_keeps_nothing(service: Running, browser: Browser) -> None:
    before = service.counts()
    page = text_of(browser.post("/edits", 422, **{**CAPITAL, "target": " ", "gate.locality": "much"}))
    assert "/facts/0/target" in page
    assert "/gate/locality" in page
    assert service.counts() == before


LINES = json.dumps({"prompt": "One is", "target": "two", "rephrasings": ["1 is"]})
TABLE = "prompt\ttarget\trephrasings\tlocality\nOne is\ttwo\t1 is|I is\tThree is\n"


@pytest.mark.parametrize(
    ("content", "rephrasings"),
    [(LINES, 1), (f"[{LINES}]", 1), (TABLE, 2), (TABLE.replace("\t", ","), 2), (f"\ufeff{LINES}\n\n", 1)],
)
@pytest.mark.parametrize("as_file", [False, True])
def test_many_facts(
    service: Running, browser: Browser, content: str, rephrasings: int, as_file: bool
) -> None:
    fields: dict[str, Any] = {"model": "tiny", "facts": "" if as_file else content, "dry_run": "yes"}
    if as_file:
        fields["files"] = {"file": ("facts.txt", content.encode())}
    before = service.counts()
    assert "✓ all can be posted" in browser.post("/edits/preview", **fields)
    assert service.counts() == before, "a preview keeps nothing"
    browser.post("/edits", **fields)
    ident = browser.address.rpartition("/")[2]
    (fact,) = service.client().get(f"/edits/{ident}/facts").json()["items"]
    assert (fact["prompt"], fact["target"], len(fact["rephrasings"])) == ("One is", "two", rephrasings)
    browser.post(f"/edits/{ident}/cancel")


def test_a_preview_names_the_faults_of_each_fact(browser: Browser) -> None:
    facts = [
        {"prompt": "One is", "target": "two"},
        {"prompt": "One is"},
        {"prompt": "The river flows to the sea. " * 20, "target": "three"},
        {"prompt": "One is", "target": "two"},
    ]
    only_good = browser.post("/edits/preview", model="tiny", facts="\n".join(map(json.dumps, facts[::3])))
    assert "says the same as fact 1" in only_good
    page = text_of(browser.post("/edits/preview", model="tiny", facts="\n".join(map(json.dumps, facts[:2]))))
    assert "✗ 1 with faults" in page
    assert "2 ✗ target: line 2: is required One is 0 0" in page
    page = text_of(browser.post("/edits/preview", model="tiny", facts=json.dumps(facts[2])))
    assert "✗ prompt:" in page, "which the model's tokenizer says"
    assert "✗ model:" in text_of(browser.post("/edits/preview", model="none", facts=json.dumps(facts[0])))
    assert "There are no facts" in browser.post("/edits/preview", model="tiny", facts="")
    assert "cannot be read" in browser.post("/edits/preview", 422, model="tiny", facts="[1, ")


def test_a_conversation_that_must_stay_is_shown(service: Running, browser: Browser) -> None:
    turns = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Good day"},
        {"role": "user", "content": "What is two?"},
    ]
    fact = {"prompt": "Three is", "target": "four", "locality": [{"messages": turns}]}
    accepted, _ = service.ledger.run(
        lambda tx: edit_sets.accept(tx, "tiny", [fact], actor=player.any_key(tx))
    )
    ident = accepted.id
    assert "Hello / Good day / What is two?" in text_of(browser.get(f"/facts/{ident}.0"))
    with player.writing(service.services.redis):
        assert "What is two?" in text_of(browser.get(f"/facts/{ident}.0/answers", whole="true"))
    browser.post(f"/edits/{ident}/cancel")


def test_a_dry_run_is_applied_once(service: Running, browser: Browser) -> None:
    ident = post(browser, dry_run="yes", locality="The capital of Peru is", question="What is it?")
    claim = player.claim(service.ledger, service.ledger.run(edit_sets.get, ident).job_id)
    service.ledger.run(commit.load, claim)
    service.ledger.run(jobs.verifying, claim)
    measured = {
        "edit_success": 0.5,
        "generation_success": False,
        "generated": " Sydney, a city",
        "unchanged_prompts": [1.0],
        "edit": {
            "keys": "given",
            "margin": -0.5,
            "known": False,
            "reason": "The margin is -0.50 nats, not 3",
        },
    }
    misses = [{"measure": "edit_success", "threshold": 0.9, "measured": 0.5}]
    report = {**player.SUMMARY, "edit_success": 0.5, "gate": {"edit_success": 0.9}, "gate_misses": misses}
    service.ledger.run(commit.finish_dry_run, claim, report, [FactReport(ident, 0, measured)])
    page = text_of(browser.get(f"/edits/{ident}"))
    assert "✗ The gate was not met" in page
    assert "Edit success 50 % ✗ gate ≥ 90 %" in page
    assert "Sydney, a city" in page
    assert "The margin is -0.50 nats" in page
    assert "data-events" not in browser.get(f"/edits/{ident}")
    assert f"/edits/{ident}/apply" in browser.get(f"/edits/{ident}")
    assert ident in browser.get("/edits", q="Australia", status="succeeded")
    assert ident not in browser.get("/edits", status="queued")
    for lacking in ("edit_success", "generation_success", "margin"):
        assert "Sydney" in browser.get(f"/edits/{ident}", lacking=lacking)
    assert "Sydney" not in browser.get(f"/edits/{ident}", lacking="neighbours_unchanged")
    with player.writing(service.services.redis):
        sides = text_of(browser.get(f"/facts/{ident}.0/answers", whole="true"))
    assert "The capital of Australia is word word" in sides
    assert "Sydney, a city" in sides
    assert "answers as before" in sides

    browser.post(f"/edits/{ident}/apply")
    applied = browser.address
    assert applied != f"/edits/{ident}"
    browser.post(f"/edits/{ident}/apply")
    assert browser.address == applied
    edit = service.client().get(applied).json()
    assert (edit["dry_run"], edit["status"]) == (False, "queued")
    browser.post(f"{applied}/cancel")


def test_history_and_comparison(service: Running, browser: Browser) -> None:
    first, one = apply(service, browser, prompt="Mount Etna is in", subject="Mount Etna", target="Italy")
    _, two = apply(service, browser, prompt="Mount Etna is in", subject="Mount Etna", target="Peru")
    page = browser.get("/models/tiny")
    assert page.count("<title>Version ") == two + 1
    assert f'aria-label="Version {two}, edit, live"' in page
    changes = text_of(browser.get(f"/models/tiny/versions/{two}"))
    assert "+ added Mount Etna is in Peru" in changes
    assert "⇢ superseded Mount Etna is in Italy" in changes
    assert "same facts" in browser.get("/models/tiny/compare", version=str(two), since=str(two))
    with player.writing(service.services.redis):
        answered = browser.get(f"/models/tiny/versions/{two}/answers", since=str(one))
    assert "0 of 1 prompts are answered differently" in answered
    life = text_of(browser.get(f"/facts/{first}.0"))
    assert f"● live since version {one}" in life
    assert f"⇢ superseded by version {two}" in life


def test_rolling_back_says_first_what_leaves(service: Running, browser: Browser) -> None:
    ident, number = apply(service, browser, prompt="Ana speaks", subject="Ana", target="Spanish")
    waiting = post(browser, prompt="Ana plays the", subject="Ana", target="piano")
    before = service.counts()
    said = text_of(browser.post("/models/tiny/rollback", to_version=number - 1, dry_run="yes"))
    assert "1 fact would leave: Ana speaks Spanish" in said
    assert f"1 edit set is queued or worked on, and may go live afterwards: {waiting[-8:]}" in said
    assert service.counts() == before
    assert "/reason" in browser.post("/models/tiny/rollback", 422, to_version=number - 1)
    browser.post("/models/tiny/rollback", to_version=number - 1, reason="wrong source", cancel_queued="yes")
    assert browser.address == f"/models/tiny/versions/{number + 1}"
    page = text_of(browser.get(f"/models/tiny/versions/{number + 1}"))
    assert "“wrong source”" in page
    assert "↶ withdrawn Ana speaks Spanish" in page
    assert "cancelled" in text_of(browser.get(f"/edits/{waiting}"))
    browser.post("/models/tiny/aliases", version=number, name="live")
    assert f"Live version {number} " in text_of(browser.get("/models"))
    life = text_of(browser.get(f"/facts/{ident}.0"))
    assert "wrong source" in life


def test_withdrawing_a_fact(service: Running, browser: Browser) -> None:
    ident, _ = apply(service, browser, prompt="Seven days make a", subject="Seven days", target="week")
    said = text_of(browser.post("/models/tiny/rollback", fact=f"{ident}.0", dry_run="yes"))
    assert "1 fact would leave: Seven days make a week" in said
    browser.post("/models/tiny/rollback", fact=f"{ident}.0", reason="it was wrong")
    waiting = browser.address
    assert waiting.startswith("/withdrawals/wd_")
    assert "waiting for a worker" in browser.get(waiting)
    job = service.ledger.run(withdrawals.get, waiting.rpartition("/")[2]).job_id
    made = player.finish(service.ledger, job)
    assert f"Version {made.number} is live without what follows" in text_of(browser.get(waiting))
    life = text_of(browser.get(f"/facts/{ident}.0"))
    assert f"↶ withdrawn by version {made.number} (withdraw)" in life


def test_facts_are_found(service: Running, browser: Browser) -> None:
    ident, _ = apply(
        service, browser, prompt="Water boils at", subject="Water", target="100 %", author="Bea", ticket="T-9"
    )
    for parameters in (
        {"q": "WATER boils"},
        {"q": "100 %"},
        {"subject": "wat"},
        {"author": "bea", "ticket": "T-9"},
        {"q": "boils", "live": "yes", "model": "tiny"},
    ):
        assert ident in browser.get("/facts", **parameters), parameters
    for parameters in ({"q": "1_0"}, {"q": "boils", "live": "no"}, {"author": "ann", "ticket": "T-9"}):
        assert "No fact matches" in browser.get("/facts", **parameters), parameters


def test_the_playground(service: Running, browser: Browser) -> None:
    fields = {"model": "tiny", "prompt": "The capital", "versions": "base, live", "max_new_tokens": "3"}
    with player.writing(service.services.redis) as writer:
        whole = text_of(browser.post("/playground", **fields))
        assert "Version 0, the base The capital word word word" in whole
        streamed = browser.post("/playground/stream", **fields)
        assert streamed.count("event: text") >= 6
        assert streamed.rstrip().rpartition("event: ")[2].startswith("done")
        writer.error = {"type": "urn:errata:problem:generation-failed", "detail": "It broke <b>."}
        assert "It broke <b>." in browser.post("/playground/stream", **fields)
    assert "/prompt" in browser.post("/playground", 422, **{**fields, "prompt": " "})
    assert "/versions" in browser.post("/playground", 422, **{**fields, "versions": ""})
    assert "There is no version" in text_of(
        browser.post("/playground", 404, **{**fields, "versions": "none"})
    )


def test_differences_are_marked() -> None:
    assert marked(["a b <c>", "a x <c>", "a b <c>"]) == [
        "a<mark> b</mark> &lt;c&gt;",
        "a<mark> x</mark> &lt;c&gt;",
        "a b &lt;c&gt;",
    ]


def test_the_ledger(service: Running, browser: Browser) -> None:
    page = text_of(browser.get("/ledger"))
    assert "version.commit" in page
    newest = service.client().get("/models/tiny/versions").json()["items"][0]
    assert newest["hash"].removeprefix("sha256:")[:12] in page
    only = text_of(browser.get("/ledger", object="keys", action="key.create"))
    assert "key.create keys/" in only
    assert "version.commit models" not in only
    assert "✓ Nothing is wrong." in text_of(browser.post("/ledger/verify"))


def test_keys(service: Running, browser: Browser) -> None:
    made = browser.post("/keys", name="news<room>", scopes=["generate"], expires_at="2999-01-01T00:00:00Z")
    found = re.search(r'class="secret">([^<]+)<', made)
    assert found is not None
    client = service.client(found.group(1))
    assert client.get("/models").status_code == 403
    assert client.get("/v1/models").status_code == 200
    assert "until 2999-01-01" in text_of(made)
    ident = found.group(1).split("_")[1]
    assert "news&lt;room&gt;" in made
    assert found.group(1) not in browser.get("/keys")
    browser.post(f"/keys/{ident}/revoke")
    assert service.client(found.group(1)).get("/models").status_code == 401


@pytest.mark.parametrize(
    "path", ["/edits/none", "/facts/none.0", "/models/none", "/withdrawals/none", "/none"]
)
def test_what_is_not_there_is_said_on_a_page(browser: Browser, path: str) -> None:
    page = browser.get(path, 404)
    assert page.startswith("<!doctype html>")
    assert "There is no" in text_of(page)


def test_what_is_typed_is_shown_as_text(service: Running, browser: Browser) -> None:
    evil = "<script>alert(1)</script> is"
    ident = post(browser, prompt=evil, target="<b>", subject="", note="<i>")
    for path in (f"/edits/{ident}", f"/facts/{ident}.0", "/facts", "/edits"):
        page = browser.get(path)
        assert "<script>alert" not in page
        assert "<b>" not in page
        assert "<i>" not in page
