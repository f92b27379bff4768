"""Facts: found by text or where they come from, each with its whole life."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastapi import Request, Response

from ledger.auth import keys
from ledger.db.engine import Transaction
from ledger.edits import edit_sets
from ledger.edits import facts as ledger_facts
from ledger.edits.search import search
from ledger.records import EditSetRecord, FactRecord, Member, VersionRecord
from ledger.versions import members, versions
from service import views
from service.console.rendering import page, router
from service.console.session import ReadSession
from service.context import Tx

routes = router()
FOUND = 50


@dataclass(frozen=True)
class Turn:
    """A version at which the state of a fact changed."""

    state: Literal["live", "superseded", "withdrawn"]
    version: VersionRecord


@routes.get("/facts")
def find_facts(
    request: Request,
    tx: Tx,
    _: ReadSession,
    q: str = "",
    subject: str = "",
    author: str = "",
    source: str = "",
    ticket: str = "",
    model: str = "",
    live: Literal["", "yes", "no"] = "",
    cursor: str | None = None,
) -> Response:
    """Facts of all models, by what they say and where they come from."""
    asked = {"subject": subject, "author": author, "source": source, "ticket": ticket}
    found = search(
        tx,
        FOUND,
        cursor,
        model_id=model or None,
        text=q or None,
        live=None if not live else live == "yes",
        parts=True,
        **{name: value or None for name, value in asked.items()},
    )
    return page(
        request,
        "facts.html",
        found=found.items,
        next_cursor=found.next_cursor,
        asked={**asked, "q": q, "model": model, "live": live},
    )


@routes.get("/facts/{fact_id}")
def show_fact(fact_id: str, request: Request, tx: Tx, _: ReadSession) -> Response:
    """One fact: what it says, where it comes from, and what became of it."""
    fact = ledger_facts.get(tx, fact_id)
    edit_set = edit_sets.get(tx, fact.edit_set_id)
    return page(
        request,
        "fact.html",
        fact=views.fact(fact),
        edit=views.edit_set(edit_set),
        turns=_life(tx, fact, edit_set),
        names=keys.names(tx),
    )


def _life(tx: Transaction, fact: FactRecord, edit_set: EditSetRecord) -> list[Turn]:
    """What became of a fact from version to version."""
    state: str | None = None
    turns: list[Turn] = []
    end: int | None = None
    for begin, until, member in members.intervals(tx, fact.edit_set_id):
        if end is not None and begin != end and state == "live":
            turns.append(Turn("withdrawn", versions.get(tx, edit_set.model_id, end)))
            state = "withdrawn"
        now = _state(member, fact.position)
        if now != state:
            turns.append(Turn(now, versions.get(tx, edit_set.model_id, begin)))
        state, end = now, until
    if end is not None and state == "live":
        turns.append(Turn("withdrawn", versions.get(tx, edit_set.model_id, end)))
    return turns


def _state(member: Member, position: int) -> Literal["live", "superseded", "withdrawn"]:
    if position in member.withdrawn:
        return "withdrawn"
    return "superseded" if position in member.superseded else "live"
