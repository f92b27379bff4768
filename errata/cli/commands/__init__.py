"""The sub-commands of ``errata``: each module here has one command and adds it to the application."""
