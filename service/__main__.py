"""Run the HTTP service: `python -m service`."""

from __future__ import annotations

import logging
import sys

import uvicorn
from pydantic import ValidationError

from service.access import log_to_stdout
from service.app import create_app
from service.settings import ServiceSettings

EXIT_USAGE = 2


def main() -> int:
    """Serve until stopped; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    log_to_stdout()
    try:
        settings = ServiceSettings()
        app = create_app(settings)
    except ValidationError as error:
        for wrong in error.errors(include_input=False, include_url=False):  # inputs may hold passwords
            name = "_".join(str(part) for part in wrong["loc"]).upper()
            sys.stderr.write(f"ERRATA_{name} cannot be used: {wrong['msg'].removeprefix('Value error, ')}\n")
        return EXIT_USAGE
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=10,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
