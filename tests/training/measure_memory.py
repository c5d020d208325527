"""Compare what `uniapl plan` says with what a run needs: `python measure_memory.py CONFIG [key=value ...]`.

Prints one JSON object: both peaks in bytes. The measured one is the process's largest resident memory above that
after all imports; the run is a process of its own.
"""

import json
import os
import resource
import subprocess
import sys

from uniapl.config import load_config


def measure(config: str, words: list[str]) -> int:
    """Train in this process."""
    import peft  # noqa: F401
    import torch._dynamo  # noqa: F401  # what training would import at its first checkpointed forward

    from uniapl.training import train

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    train(load_config(config, words))
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def compare(config: str, words: list[str]) -> dict[str, float]:
    """Plan here, train in a child."""
    from uniapl.training.plan import plan_run

    planned = plan_run(load_config(config, words)).peak
    done = subprocess.run(
        [sys.executable, __file__, "--train", config, *words],
        capture_output=True,
        text=True,
        # a small model's tensors are otherwise cut from a heap that keeps what is freed: a third more
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    assert done.returncode == 0, done.stderr
    measured = int(done.stdout.splitlines()[-1])
    return {"planned": planned, "measured": measured, "ratio": round(planned / measured, 3)}


if __name__ == "__main__":
    is_child = sys.argv[1] == "--train"
    result = measure(sys.argv[2], sys.argv[3:]) if is_child else compare(sys.argv[1], sys.argv[2:])
    sys.stdout.write(json.dumps(result) + "\n")
