"""Addresses on this machine."""

from __future__ import annotations

import socket
from pathlib import Path

from errata.errors import PortTaken

SOCKET_PATH_LIMIT = 100
WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}


def free_port(host: str) -> int:
    """A TCP port that nothing listens on at this moment."""
    with socket.socket(_family(host), socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def require_free(host: str, port: int) -> None:
    """Check that the service will be able to listen.

    Raises:
        PortTaken: Something listens there, or the host is not an address of this machine.
    """
    try:
        with socket.socket(_family(host), socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise PortTaken(
            f"The service cannot listen on {host}:{port} ({error.strerror or error}).",
            "Stop what listens there, or give another --port or --host.",
        ) from error


def client_url(host: str, port: int) -> str:
    """The address that a client on this machine uses for a service that listens on ``host``."""
    name = WILDCARDS.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}"


def fits_socket(folder: Path) -> bool:
    """Whether Unix sockets in sub-folders of ``folder`` stay under the kernel's limit on their path."""
    return len(str(folder / "valkey" / "valkey.sock")) <= SOCKET_PATH_LIMIT


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
