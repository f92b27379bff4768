"""Questions and conversations through the whole worker: edited, held and measured in the chat template."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ledger import Ledger
from ledger.blobs.store import LocalBlobs
from ledger.db.engine import open_engine
from ledger.edits import edit_sets
from ledger.edits import facts as ledger_facts
from malmen_core.editing import edit as editing
from malmen_core.editing.goals import Goals, question_goals
from malmen_core.facts import Fact
from malmen_core.models.base import BaseModel
from tests.inprocess import Office
from tests.servers import Postgres
from tests.tiny import save_tiny, tiny_tokenizer

pytestmark = pytest.mark.stack

TEMPLATE = (
    "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


@pytest.fixture
def office(postgres_server: Postgres, tmp_path: Path) -> Iterator[Office]:
    folder = save_tiny(tmp_path / "chatting")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    with postgres_server.database() as url:
        ledger = Ledger(open_engine(url), LocalBlobs(tmp_path / "blobs"))
        yield Office(ledger, folder)
        ledger.close()


def turns(content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}]


def test_what_is_asked_in_a_chat_is_edited_held_and_measured(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[list[int]] = []

    def goals(base: BaseModel, facts: Sequence[Fact], asked: list[int]) -> Goals:
        found = question_goals(base, facts, asked)
        if found.sequences:
            tried.append(list(found.fact_of))
        return found

    monkeypatch.setattr(editing, "question_goals", goals)
    peru: dict[str, Any] = {
        "prompt": "The capital of Peru is",
        "target": "Paris",
        "subject": "Peru",
        "question": "What is the capital of Peru?",
        "locality": [
            {"messages": turns("Who wrote the book?"), "hold": True},
            {"messages": turns("What is the capital of France?")},
        ],
    }
    france = {"prompt": "The capital of France is", "target": "Lima", "subject": "France"}
    france["question"] = "What is the capital of France?"
    before = office.live
    version = office.edit(peru, france)
    report = version.report
    assert report is not None
    assert report["chat_success"] is not None
    assert report["intended_changes"] == [{"fact": 0, "locality": 1, "changed_by": 1}]
    ident = office.ledger.run(edit_sets.list_all).items[0].id
    own = office.ledger.run(ledger_facts.list_of, ident).items[0]
    assert own.locality[0]["messages"] == turns("Who wrote the book?")
    assert own.report is not None
    held, changed = own.report["unchanged_prompts"]
    assert held in (0.0, 1.0)
    assert changed is None
    assert own.report["chat"]
    assert version.weights_digest != before.weights_digest
    plain = {name: value for name, value in peru.items() if name != "question"}
    office.withdraw([ident])
    other = office.edit(plain, {name: value for name, value in france.items() if name != "question"})
    assert other.report is not None
    assert other.report["chat_success"] is None
    assert tried == [[0, 1]]  # what the random model answers otherwise; none without questions
