"""What both clients share: where the service is, how long is waited, and what its events say."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from errata.client.errors import ApiError, Unreachable, WaitTimeout
from errata.client.resources import EditSet, Withdrawal
from errata.client.transport import Event

DEFAULT_URL = "http://127.0.0.1:8000"
POLL_S = 0.2
AGAIN_S = 1.0
MOST_LOST = 30
Watch = Callable[[EditSet], None]
WatchWithdrawal = Callable[[Withdrawal], None]
State = TypeVar("State", EditSet, Withdrawal)


class Deadline:
    """Until when something is waited for."""

    def __init__(self, what: str, timeout: float | None) -> None:
        self._what, self._timeout = what, timeout
        self._until = None if timeout is None else time.monotonic() + timeout

    def check(self) -> None:
        """Refuse to wait any longer.

        Raises:
            WaitTimeout: The time is over.
        """
        if self._until is not None and time.monotonic() >= self._until:
            raise WaitTimeout(
                f"{self._what} is not done after {self._timeout:g} s.", "It goes on; wait again."
            )


class Waiting(Deadline, Generic[State]):
    """How long something has been waited for, and how often its events were lost."""

    def __init__(self, read: Callable[[dict[str, Any]], State], ident: str, timeout: float | None) -> None:
        super().__init__(ident, timeout)
        self._read: Callable[[dict[str, Any]], State] = read
        self._lost = 0

    def state(self, event: Event) -> State:
        """The state that an event tells of.

        Raises:
            ApiError: It tells of a problem.
            WaitTimeout: The time is over, and it is not the final state.
        """
        self._lost = 0
        check_error(event)
        if event.name != "final":
            self.check()
        return self._read(event.data)

    def again(self, error: Unreachable | None) -> None:
        """Check whether to connect again after the events were lost.

        Raises:
            Unreachable: They were lost too often in a row.
            WaitTimeout: The time is over.
        """
        self.check()
        self._lost += 1
        if self._lost > MOST_LOST:
            raise error or Unreachable("The service ends the events again and again.", "Try again later.")


def check_error(event: Event) -> None:
    """Refuse an event that tells of a problem.

    Raises:
        ApiError: It does.
    """
    if event.name == "error":
        raise ApiError(event.data, int(event.data.get("status", 500)))


def text_of(event: Event) -> str:
    """The text of an event of generation; raises as `check_error`."""
    check_error(event)
    return str(event.data.get("text", ""))


def where(url: str | None, key: str | None) -> tuple[str, str | None]:
    """Address and key: as given, else from the environment."""
    return url or os.environ.get("ERRATA_URL") or DEFAULT_URL, key or os.environ.get("ERRATA_KEY")


def id_of(given: str | EditSet | Withdrawal) -> str:
    """The id of an edit set or a withdrawal."""
    return given if isinstance(given, str) else given.id
