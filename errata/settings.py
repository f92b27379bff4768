"""Settings of the command line and of the embedded stack."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr

from problems.settings import ErrataSettings


class StackSettings(ErrataSettings):
    """What ``errata`` itself reads from ``ERRATA_*`` variables."""

    data_dir: Path = Field(
        default=Path(".errata"),
        description="Folder of the embedded stack: database, queue, blobs, logs, key.",
    )
    models_dir: Path = Field(
        default=Path(".errata/models"),
        description="Where the converted default model is kept; shared between data directories.",
    )
    model_source: str | None = Field(
        default=None,
        description="Hub id or folder that `up` and `register` take in place of the default model.",
    )
    url: str | None = Field(
        default=None, description="Address of the service for client commands; otherwise the local stack's."
    )
    key: SecretStr | None = Field(
        default=None, description="API key for client commands; otherwise the local stack's admin key."
    )
    stack_workers: int = Field(
        default=4,
        ge=1,
        description="Most models for which the embedded stack starts workers: one edits, one answers.",
    )
    stack_start_timeout_s: float = Field(
        default=60.0, gt=0, description="Longest wait for a server of the embedded stack to become ready."
    )
    stack_stop_timeout_s: float = Field(
        default=9.0, gt=0, description="How long a process may take to stop before it is killed."
    )
