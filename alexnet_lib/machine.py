"""What the machine at hand is, and how much of it a process may use."""

from __future__ import annotations

import os
import platform
import resource
import sys
from pathlib import Path

import torch

QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Where a container (Linux, cgroup v2) sees its share: the microseconds that it has, or ``max``, of how many."""


def cores() -> int:
    """Return how many cores this process may use: under ``taskset``, Slurm or a container's quota fewer than all."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = map(int, QUOTA.read_text().split())
    except (OSError, ValueError):  # no such file, or no quota
        return bound
    return min(bound, max(1, quota // period))


def cpu_model() -> str:
    """Return the processor's family, model and stepping, which its marketing name often hides."""
    wanted = ("model name", "cpu family", "model", "stepping")
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        lines = []
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    named = ", ".join(f"{key} {found[key]}" for key in wanted if key in found)
    return named or platform.processor() or platform.machine()


def described(device: torch.device) -> str:
    """Return all of a machine that decides the last bits of what a run computes on ``device``."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return f"{name}; {cpu_model()}; {torch.backends.cpu.get_cpu_capability()}; threads: {torch.get_num_threads()}"


def peak_memory(device: torch.device) -> float:
    """Return the bytes that the device had in use at most; on a CPU this process, whatever else it has done."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, others KiB
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
