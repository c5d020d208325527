"""Print every table of a results file: `python -m benchmarks.tables [FILE ...]`."""

import sys
from pathlib import Path

from benchmarks import ranks, rollouts, scaling, step, training
from benchmarks.measuring import default_output, read_results

_SHOW = {
    "ranks": ranks.show,
    "rollouts": rollouts.show,
    "scaling": scaling.show,
    "step": step.show,
    "training": training.show,
}


def main(arguments: list[str] | None = None) -> None:
    """Print the named files, or those of both devices."""
    words = sys.argv[1:] if arguments is None else arguments
    paths = [Path(w) for w in words] or [default_output(device) for device in ("cpu", "cuda")]
    for path in paths:
        for name, section in read_results(path).items():
            if show := _SHOW.get(name.partition(" ")[0]):
                show(section)
                if not section["is_complete"]:
                    print(f"  (only {len(section['rounds'])} rounds so far)")


if __name__ == "__main__":
    main()
