"""``python -m errata`` is the ``errata`` command."""

from __future__ import annotations

from errata.cli import main

if __name__ == "__main__":
    main()
