"""Run the HTTP service: `python -m service`."""

from __future__ import annotations

import logging

import uvicorn

from service.access import log_to_stdout
from service.app import create_app
from service.settings import ServiceSettings


def main() -> None:
    """Serve until stopped."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    log_to_stdout()
    settings = ServiceSettings()
    app = create_app(settings)
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=10,
    )


if __name__ == "__main__":
    main()
