"""Peak memory, planned beside measured: `python -m benchmarks.memory CONFIG [key=value ...]`.

Prints one JSON object: both peaks in bytes and their ratio. The run is a process of its own. On a CPU the
measured peak is its largest resident memory above that after all imports; on CUDA what its tensors took at most.
"""

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from uniapl.config import load_config


def measure(config: str, words: Sequence[str]) -> int:
    """Train in this process and return the peak in bytes."""
    import peft  # noqa: F401
    import torch
    import torch._dynamo  # what training would import at its first checkpointed forward

    from uniapl.runs import train

    before = resident_peak()
    train(load_config(config, words))
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    return resident_peak() - before


def resident_peak() -> int:
    """Return the largest resident memory of this process so far, bytes: `ru_maxrss` would inherit its parent's."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
    assert found is not None
    return int(found[1]) * 1024


def compare(config: str, words: Sequence[str]) -> dict[str, float]:
    """Plan here, train in a child."""
    from uniapl.planning.plan import plan_run

    planned = plan_run(load_config(config, words)).peak
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", "--train", config, *words],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    if done.returncode:
        sys.exit(done.returncode)  # it has said why
    measured = int(done.stdout.splitlines()[-1])
    return {"planned": planned, "measured": measured, "ratio": round(planned / measured, 3)}


def main() -> None:
    """Compare, or be the child that trains."""
    if len(sys.argv) < 2:
        sys.exit("usage: python -m benchmarks.memory CONFIG [key=value ...]")
    is_child = sys.argv[1] == "--train"
    result = measure(sys.argv[2], sys.argv[3:]) if is_child else compare(sys.argv[1], sys.argv[2:])
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
