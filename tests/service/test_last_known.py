"""What stands in for the ledger while it does not answer, and for how long."""

from __future__ import annotations

import time

import pytest

from ledger.errors import LedgerUnavailable, NotFound
from service.last_known import HEADER, MOST, LastKnown, noted


def away() -> str:
    raise LedgerUnavailable("no route to host")


def gone() -> str:
    raise NotFound("key", "it")


def test_the_last_answer_stands_in_for_one_that_does_not_come() -> None:
    known = LastKnown(60)
    with noted() as fresh:
        assert known.ask("key", lambda: "first") == "first"
        assert known.ask("key", lambda: "second") == "second"
    with noted() as stale:
        assert known.ask("key", away) == "second"
    assert fresh == {}
    assert stale == {HEADER: "1"}


def test_nothing_stands_in_for_what_was_never_answered_or_too_long_ago() -> None:
    known = LastKnown(0.05)
    with pytest.raises(LedgerUnavailable):
        known.ask("key", away)
    known.ask("key", lambda: "first")
    time.sleep(0.1)
    with pytest.raises(LedgerUnavailable):
        known.ask("key", away)


def test_what_was_refused_since_is_forgotten() -> None:
    known = LastKnown(60)
    known.ask("key", lambda: "first")
    with pytest.raises(NotFound):
        known.ask("key", gone)
    with pytest.raises(LedgerUnavailable):
        known.ask("key", away)


def test_the_oldest_answers_are_forgotten_for_new_ones() -> None:
    known = LastKnown(60)
    for number in range(MOST + 1):
        known.ask(number, lambda: "it")
    assert known.ask(MOST, away) == "it"
    with pytest.raises(LedgerUnavailable):
        known.ask(0, away)
