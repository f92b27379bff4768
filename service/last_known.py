"""What the ledger said last, used while it does not answer, so that loaded versions go on generating.

Only what a generation needs is kept: whose a key is, what a model is, and which version a name means. An answer
that rests on it says so in a header.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from ledger.db.engine import unavailable_is_typed
from ledger.errors import LedgerUnavailable

T = TypeVar("T")
HEADER = "Errata-Ledger-Away"
MOST = 10_000
_ages: ContextVar[list[float]] = ContextVar("ages")


class LastKnown:
    """The latest answer to each of the latest questions; thread-safe.

    Args:
        lasts_s: seconds for which an answer may stand in for the next.
    """

    def __init__(self, lasts_s: float) -> None:
        self._lasts_s = lasts_s
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, tuple[float, Any]] = OrderedDict()

    def ask(self, what: Hashable, read: Callable[[], T]) -> T:
        """What `read` returns; or where the ledger does not answer it, what it returned last.

        Raises:
            LedgerUnavailable: the ledger does not answer, and its last answer is too old, or there is none.
            Exception: what `read` raises; its last answer is then forgotten.
        """
        begun = time.monotonic()
        try:
            with unavailable_is_typed():
                found = read()
        except LedgerUnavailable:
            with self._lock:
                at, known = self._kept.get(what, (-math.inf, None))
            if begun - at > self._lasts_s:
                raise
            _ages.get([]).append(begun - at)
            return known  # type: ignore[no-any-return]  # of the same question
        except Exception:
            with self._lock:
                self._kept.pop(what, None)
            raise
        with self._lock:
            self._kept[what] = begun, found
            self._kept.move_to_end(what)
            while len(self._kept) > MOST:
                self._kept.popitem(last=False)
        return found


@contextmanager
def noted() -> Iterator[dict[str, str]]:
    """The header of an answer to what is asked within, filled in if it rests on what was known before."""
    ages: list[float] = []
    token = _ages.set(ages)
    headers: dict[str, str] = {}
    try:
        yield headers
    finally:
        _ages.reset(token)
        if ages:
            headers[HEADER] = str(math.ceil(max(ages)))
