"""Errata's outermost layer: its clients, the ``errata`` command, the embedded stack and the demo.

`errata.Client` and `errata.AsyncClient` are loaded when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from errata.client import ApiError, AsyncClient, Client, Unreachable, WaitTimeout

__all__ = ["ApiError", "AsyncClient", "Client", "Unreachable", "WaitTimeout"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from errata import client

    return getattr(client, name)
