"""Settings of a worker process."""

from __future__ import annotations

from typing import Literal

from pydantic import ByteSize, Field

from problems.settings import ErrataSettings


class WorkerSettings(ErrataSettings):
    """Read from `ERRATA_*` environment variables."""

    model: str = Field(default="", description="Id of the registered model that this worker serves.")
    role: Literal["edit", "generate", "both"] = Field(
        default="both",
        description="What this worker does: make versions, answer calls, or both. In processes of their own, "
        "an edit that fails or is ended takes no answer with it.",
    )
    device: str = Field(
        default="auto", description="Where the model lies: auto, cpu, cuda, or cuda:1 and so on."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="Precision of the base model; auto: bfloat16 on a GPU, float32 on a CPU."
    )
    threads: int = Field(
        default=0, ge=0, description="CPU threads for the model; 0 leaves the choice to PyTorch."
    )
    memory_budget: ByteSize | None = Field(
        default=None,
        description="Most device memory for activations and statistics besides the model, such as 4GB; "
        "batches are made to fit.",
    )
    lease_s: float = Field(
        default=15.0,
        gt=0.5,
        description="Seconds for which a worker holds a job without renewing its lease; once they are over, "
        "another takes it.",
    )
    max_attempts: int = Field(
        default=3, ge=1, description="Attempts at a job, after which it is failed as quarantined."
    )
    job_timeout_s: float = Field(
        default=3600.0, gt=0, description="Seconds after which a worker that is still at one job ends itself."
    )
    stop_grace_s: float = Field(
        default=8.0, gt=0, description="Seconds that a stopping worker gives its job to reach a safe point."
    )
    version_cache: int = Field(
        default=4, ge=1, description="Versions whose weights a worker keeps in memory, besides the base."
    )
    generation_batch: int = Field(
        default=16,
        ge=1,
        description="Most answers that are written together; with 1, how an answer is rounded "
        "does not depend on others.",
    )
    generation_tokens: int = Field(
        default=16384,
        ge=1,
        description="Most tokens that answers which are written together may come to, with their prompts, "
        "all counted as long as the longest.",
    )
    verify_live_facts: int = Field(
        default=64,
        ge=0,
        description="Most live facts besides its own that a new version is measured on; above it, a sample.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="How much the processes log to standard error."
    )
