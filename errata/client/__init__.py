"""What talks to a running service: clients of its API, and files of facts."""

from errata.client.async_client import AsyncClient
from errata.client.client import Client
from errata.client.errors import ApiError, Unreachable, WaitTimeout

__all__ = ["ApiError", "AsyncClient", "Client", "Unreachable", "WaitTimeout"]
