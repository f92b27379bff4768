"""Start one program as another user, bound to the life of its parent.

Run as a script in a fresh interpreter, which then becomes the program:
``launch.py SIGNAL PARENT USER -- PROGRAM ARGS``.

``SIGNAL`` is sent to the program when its parent dies, however it dies (Linux only); ``USER`` is
``uid:gid`` or ``-``. Doing this here and not in a ``preexec_fn`` keeps it safe in a parent that has
threads.
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1
PARENT_GONE = 125


def become(death_signal: int, parent: int, user: str, command: list[str]) -> None:
    """Drop privileges, bind to the parent and replace this process by the command.

    Args:
        death_signal: Number of the signal that follows the parent's death.
        parent: Process id of the parent; nothing is started if it is gone already.
        user: ``uid:gid`` to run as, or ``-`` for the present user.
        command: The program and its arguments.

    Raises:
        OSError: The program cannot be started.
    """
    if user != "-":
        uid, gid = (int(part) for part in user.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
        if os.getppid() != parent:
            sys.exit(PARENT_GONE)
    os.execvp(command[0], command)


if __name__ == "__main__":
    become(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[5:])
