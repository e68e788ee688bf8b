"""What the machine at hand is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from alexnet_lib import machine


def test_a_cpu_whose_kernel_tells_no_model_is_named_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda path: "processor\t: 0\nCPU part\t: 0xd0c\n\n")
    assert machine.cpu_model() != ""


@pytest.fixture(autouse=True)
def _no_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "QUOTA", Path("/nowhere"))


def test_a_process_that_may_use_a_part_of_the_cores_counts_that_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 5}, raising=False)
    assert machine.cores() == 2


def test_where_no_part_can_be_told_all_cores_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert machine.cores() == 3


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("200000 100000", 2),
        ("250000 100000", 2),
        ("50000 100000", 1),
        ("900000 100000", 4),
        ("max 100000", 4),
        ("", 4),
    ],
)
def test_a_container_s_quota_counts(quota: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(machine, "QUOTA", tmp_path / "cpu.max")
    assert machine.cores() == 4
    machine.QUOTA.write_text(f"{quota}\n")
    assert machine.cores() == cores


def test_the_peak_of_memory_holds_what_was_allocated() -> None:
    before = machine.peak_memory(torch.device("cpu"))
    held = torch.ones(2**26)
    assert machine.peak_memory(torch.device("cpu")) >= max(before, held.nbytes)
