"""Resident memory of another process, from ``/proc``; unknown (None) on systems without it."""

from __future__ import annotations

from pathlib import Path

RESET_PEAK = "5"


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


def _field(pid: int | None, name: str) -> float | None:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(f"{name}:"):
            return round(int(line.split()[1]) / 1024, 1)
    return None
