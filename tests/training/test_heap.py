"""What is freed inside `freed_memory_kept` is not mapped again."""

import json
import platform
import subprocess
import sys

import pytest
import torch

from uniapl.training.heap import freed_memory_kept

MEBIBYTES = 128
"""In blocks of 16: more than glibc keeps of itself."""

PROGRAM = f"""
import json, resource, torch
from uniapl.training.heap import freed_memory_kept

def mapped_mib(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        blocks = [torch.zeros(2**22) for _ in range({MEBIBYTES} // 16)]
        del blocks
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return faults * resource.getpagesize() / 2**20

def resident_mib():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize() / 2**20

found = {{"outside": mapped_mib(4)}}
with freed_memory_kept():
    mapped_mib(4)
    found["inside"] = mapped_mib(4)
    found["kept"] = resident_mib()
found["given_back"] = found["kept"] - resident_mib()
print(json.dumps(found))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc's heap that is set")
def test_memory_is_mapped_once_inside_and_given_back_at_the_end() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert found["outside"] > MEBIBYTES
    assert found["inside"] < MEBIBYTES / 8
    assert found["given_back"] > MEBIBYTES / 2


def test_elsewhere_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    with freed_memory_kept():
        assert torch.ones(3).sum() == 3
