"""The outermost layer: the ``errata`` command, the embedded stack and the demo."""
