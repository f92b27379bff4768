"""The typed errors of the core: what went wrong, with which input, and what to do about it."""

from __future__ import annotations


class CoreError(Exception):
    """Base of every error that this package raises on purpose.

    Attributes:
        code: a stable slug, one for each class.
        message: what is wrong, naming the input.
        remedy: what the caller can do.
        field: JSON pointer to the offending request field, if there is one.
    """

    code = "core-error"

    def __init__(self, message: str, remedy: str, field: str | None = None) -> None:
        super().__init__(message, remedy, field)
        self.message = message
        self.remedy = remedy
        self.field = field

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}"


class ModelNotLoadable(CoreError):
    """The checkpoint is absent, incomplete or damaged."""

    code = "model-not-loadable"


class UnsupportedArchitecture(CoreError):
    """The checkpoint is readable, but no family in `families.py` describes it."""

    code = "unsupported-architecture"


class UnknownModule(CoreError):
    """A named module does not exist in the model or is not a projection that can be edited."""

    code = "unknown-module"


class EditorMismatch(CoreError):
    """An editor was made for another model, other modules, or is not an editor file."""

    code = "editor-mismatch"


class FactError(CoreError):
    """A fact cannot be edited as it stands."""

    code = "invalid-fact"


class NotFiniteError(CoreError):
    """An edit came out with infinities or NaN; nothing was swapped in."""

    code = "edit-not-finite"


class AnswerNotFinite(CoreError):
    """A version gives infinities or NaN in place of the next token's logits."""

    code = "answer-not-finite"


class DeltaCorrupt(CoreError):
    """Stored bytes are not a delta, statistics or editor that this release can read."""

    code = "delta-corrupt"


class OutOfDeviceMemory(CoreError):
    """The smallest batch does not fit into the device's memory, or into the budget for it."""

    code = "out-of-device-memory"


class PromptTooLong(CoreError):
    """A prompt and its answer do not fit into the model's context."""

    code = "prompt-too-long"


class CheckpointMismatch(CoreError):
    """A training checkpoint is missing, damaged, or of another run."""

    code = "checkpoint-mismatch"


class UnknownSetting(CoreError):
    """A setting that does not exist was given, or a value that it cannot have."""

    code = "unknown-setting"


class ExportRefused(CoreError):
    """A version cannot be written in this form, or what was written does not answer as the version does."""

    code = "export-refused"
