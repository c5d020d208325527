"""Starts several processes that meet over gloo, as users do: with torchrun."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone")
"""With a port of its own: other launches on this machine may have the usual one."""


def launch(size: int, *words: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
    """Start `python words…` as several ranks with torchrun; a busy machine is no failure."""
    path = os.pathsep.join(map(str, (TESTS.parent / "src", TESTS)))
    return subprocess.run(
        [*TORCHRUN, f"--nproc-per-node={size}", *words],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"},
    )
