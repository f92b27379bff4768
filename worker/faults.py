"""Labelled points at which a test can have this process killed or stopped. For tests only.

Nothing happens unless `ERRATA_FAULTS=1`. Then a process that passes the point named by `ERRATA_FAULT_POINT`
sends itself SIGKILL; with `ERRATA_FAULT_ACTION=stop`, SIGSTOP; with `hang`, its thread sleeps for good. With
`ERRATA_FAULT_MATCH`, only where the point's subject (an edit set's id and note) contains that text.
"""

from __future__ import annotations

import os
import signal
import time

POINTS = ("after_claim", "after_statistics", "after_solve", "before_commit", "after_commit")


def point(label: str, subject: str = "") -> None:
    """Pass a labelled point; returns at once outside of fault tests.

    Args:
        label: one of `POINTS`.
        subject: what is worked on.

    Raises:
        ValueError: the label, or the one in the environment, is not in `POINTS`.
    """
    if os.environ.get("ERRATA_FAULTS") != "1":
        return
    wanted = os.environ.get("ERRATA_FAULT_POINT", "")
    for name in (label, wanted or label):
        if name not in POINTS:
            raise ValueError(f"There is no fault point {name!r}; choose one of {', '.join(POINTS)}.")
    if label != wanted or os.environ.get("ERRATA_FAULT_MATCH", "") not in subject:
        return
    action = os.environ.get("ERRATA_FAULT_ACTION", "kill")
    while action == "hang":
        time.sleep(3600)
    os.kill(os.getpid(), signal.SIGSTOP if action == "stop" else signal.SIGKILL)
