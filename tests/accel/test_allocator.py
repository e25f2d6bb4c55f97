"""Promise: memory that a step frees is there for the next one."""

from __future__ import annotations

import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from mmrobust.accel import allocator

FAULTS = """
import resource, torch
from mmrobust.accel.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(2**24)  # 64 MiB, above the size that glibc always hands back
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
keep_freed_memory()
faults()
print(before, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="there is no glibc")
def test_freed_memory_is_used_again() -> None:
    told = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True).stdout.split()
    before, after = map(int, told)
    assert after < before / 10


@pytest.mark.parametrize("most", [2**30, 2**25, 0])
def test_what_an_older_glibc_refuses_is_asked_again_with_less(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[int, int]] = []

    def mallopt(name: int, value: int) -> int:
        takes = name != allocator._MMAP_THRESHOLD or value <= most
        if takes:
            taken.append((name, value))
        return int(takes)

    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=mallopt))
    monkeypatch.setattr(allocator.sys, "platform", "linux")
    allocator.keep_freed_memory.__wrapped__()
    # Without the first, the second would do harm: it stops glibc from raising the first by itself.
    assert taken == ([(allocator._MMAP_THRESHOLD, most), (allocator._TRIM_THRESHOLD, 2**30)] if most else [])
