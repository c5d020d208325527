"""The picture of README: three methods on a reward with a hole, step by step.

    python -m benchmarks.hole RUN [RUN ...]    # reads the runs' evaluations into hole.json, then draws
    python -m benchmarks.hole                  # draws hole.json again

docs/results/miniature.md has the command of the runs.
"""

import json
import sys
from pathlib import Path

from benchmarks.curves import Curves, curves_of, over_steps
from benchmarks.drawing import picture
from uniapl import load_config

DOCS = Path(__file__).parents[1] / "docs"
DATA = DOCS / "results" / "miniature" / "hole.json"
PICTURE = DOCS / "images" / "hole.svg"

METHODS = {"grpo": "#d1495b", "mix": "#c98a1b", "uniapl": "#2878b5"}
PANELS = {
    "hack_fraction": "answers that use the hole in the reward",
    "joint": "answers that follow everything, in fluent sentences",
}


def draw(curves: Curves) -> str:
    """Return the picture as SVG: a panel per metric, a thick line per method and a thin one per seed."""
    panels = [over_steps(curves, metric, title, METHODS) for metric, title in PANELS.items()]
    label = "grpo uses the hole in most answers, mix in some, uniapl in hardly any"
    return picture(panels, label)


def main() -> None:
    """Read runs if there are any, and draw."""
    if sys.argv[1:]:
        runs = [(load_config(Path(run) / "config.yaml").method, Path(run)) for run in sys.argv[1:]]
        curves = curves_of(runs, list(PANELS))
        DATA.write_text(json.dumps(curves, indent=1) + "\n", encoding="utf-8")
    PICTURE.write_text(draw(json.loads(DATA.read_text(encoding="utf-8"))), encoding="utf-8")
    print(f"wrote {PICTURE}")


if __name__ == "__main__":
    main()
