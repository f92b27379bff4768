"""The ``errata`` command: its sub-commands, and how they read and write."""
