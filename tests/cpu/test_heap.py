"""What is freed inside `tuned_heap` is kept or given back, as asked."""

import json
import os
import platform
import subprocess
import sys

import pytest

from uniapl.cpu.heap import OWN_SETTINGS, tuned_heap

MEBIBYTES = 128
"""Allocated at once: more than glibc keeps of itself."""

PREAMBLE = f"""
import ctypes, json, resource, torch
from uniapl.cpu.heap import tuned_heap

ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # no huge pages: one fault, one page

def mapped_mib(times, block=BLOCK):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        blocks = [torch.zeros(block * 2**18) for _ in range({MEBIBYTES} // block)]
        del blocks
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return faults * resource.getpagesize() / 2**20

def resident_mib():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize() / 2**20
"""

KEEPING = """
found = {"outside": mapped_mib(4)}
with tuned_heap(for_speed=True):
    mapped_mib(4)
    found["inside"] = mapped_mib(4)
    found["kept"] = resident_mib()
found["given_back"] = found["kept"] - resident_mib()
found["after"] = mapped_mib(4)
print(json.dumps(found))
"""

HOLES = f"""
with tuned_heap(for_speed=False):
    blocks = [torch.zeros(2**18) for _ in range({MEBIBYTES})]
    full = resident_mib()
    others = blocks[::2]  # stay alive between what is freed
    del blocks
    print(full - resident_mib())
"""


def _output(program: str, block: int = 16) -> str:
    """Run in a process of its own, since what a heap does depends on what was freed before.

    Args:
        program: Python code.
        block: MiB of one block that `mapped_mib` allocates.
    """
    environment = {k: v for k, v in os.environ.items() if k not in OWN_SETTINGS}
    command = [sys.executable, "-c", PREAMBLE.replace("BLOCK", str(block)) + program]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment
    ).stdout


on_glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="it is glibc's heap that is set"
)


@on_glibc
@pytest.mark.parametrize("block", [16, 64], ids=["small blocks", "mapped by default"])
def test_freed_memory_is_kept_for_speed_until_the_end(block: int) -> None:
    found = json.loads(_output(KEEPING, block))
    assert found["outside"] > MEBIBYTES
    # a block may find no hole of its size once; what is freed is kept all the same
    assert found["inside"] < found["outside"] / 4
    assert found["given_back"] > MEBIBYTES / 2
    assert found["after"] > MEBIBYTES


@on_glibc
def test_otherwise_blocks_between_others_are_given_back() -> None:
    assert float(_output(HOLES)) > MEBIBYTES / 3


@pytest.mark.parametrize("reason", ["another system", "set by the user"])
def test_elsewhere_nothing_changes(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Untouched:
        malloc_trim = None  # there, but neither it nor mallopt can be called

    monkeypatch.setattr("ctypes.CDLL", lambda _name: Untouched())
    monkeypatch.setattr("sys.platform", "linux")
    for name in OWN_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(AttributeError, match="mallopt"), tuned_heap(for_speed=True):
        pass
    if reason == "another system":
        monkeypatch.setattr("sys.platform", "darwin")
    else:
        monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    with tuned_heap(for_speed=True):
        pass
