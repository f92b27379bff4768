"""Memory of processes, from ``/proc`` (unknown, None, on systems without it), and of GPUs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

RESET_PEAK = "5"
MB = 2**20


def resident_mb(pid: int | None) -> float | None:
    """Memory that a process holds now, in MB (2**20 bytes)."""
    return _field(pid, "VmRSS")


def peak_mb(pid: int | None) -> float | None:
    """The most that a process has held since its start or since ``reset_peak``, in MB."""
    return _field(pid, "VmHWM")


def reset_peak(pid: int | None) -> None:
    """Let the peak of a process start anew; where that is not allowed, the peak since its start remains."""
    try:
        Path(f"/proc/{pid}/clear_refs").write_text(RESET_PEAK)
    except OSError:
        return


def reset_device_peak(device: torch.device) -> None:
    """Let the peak that `device_peak_mb` gives start anew."""
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    reset_peak(os.getpid())


def device_peak_mb(device: torch.device) -> float | None:
    """The most that this process has held on a device, in MB: a GPU's memory, or its own."""
    import torch

    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / MB, 1)
    return peak_mb(os.getpid())


def _field(pid: int | None, name: str) -> float | None:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(f"{name}:"):
            return round(int(line.split()[1]) / 1024, 1)
    return None
