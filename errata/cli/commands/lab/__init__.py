"""Sub-commands that measure or train a model on this machine; they load torch."""
