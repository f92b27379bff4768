"""What can go wrong outside the packages: each error says what happened and what to do about it."""

from __future__ import annotations


class StackError(Exception):
    """A command could not be carried out.

    Attributes:
        code: A slug for machines.
        message: What went wrong, with the input it went wrong on.
        remedy: What the reader can do about it.
        details: Lines that help to find the cause, such as the end of a log.
    """

    code = "stack-error"

    def __init__(self, message: str, remedy: str = "", details: tuple[str, ...] = ()) -> None:
        super().__init__(message, remedy, details)
        self.message = message
        self.remedy = remedy
        self.details = details

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()


class AlreadyRunning(StackError):
    """Another stack holds the data directory."""

    code = "already-running"


class ServersMissing(StackError):
    """The embedded servers are not installed."""

    code = "servers-missing"


class PortTaken(StackError):
    """Something else listens on the wanted address."""

    code = "port-taken"


class ChildFailed(StackError):
    """A process of the stack did not come up."""

    code = "child-failed"


class ModelNotFetched(StackError):
    """The default model could not be fetched, checked or converted."""

    code = "model-not-fetched"


class NoStack(StackError):
    """There is no address or key to talk to."""

    code = "no-stack"


class InputFileError(StackError):
    """A file given on the command line cannot be used."""

    code = "input-file"


class DemoFailed(StackError):
    """The demonstration could not be carried through."""

    code = "demo-failed"


class ExportTarget(StackError):
    """Something stands where an export is to go."""

    code = "export-target"
