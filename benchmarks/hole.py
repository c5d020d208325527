"""The picture of README: three methods on a reward with a hole, step by step.

    python -m benchmarks.hole RUN [RUN ...]    # reads the runs' evaluations into hole.json, then draws
    python -m benchmarks.hole                  # draws hole.json again

docs/results/miniature.md has the command of the runs.
"""

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from uniapl import Run, load_config

DOCS = Path(__file__).parents[1] / "docs"
DATA = DOCS / "results" / "miniature" / "hole.json"
PICTURE = DOCS / "images" / "hole.svg"

METHODS = {"grpo": "#d1495b", "mix": "#c98a1b", "uniapl": "#2878b5"}
PANELS = {
    "hack_fraction": "answers that use the hole in the reward",
    "joint": "answers that follow everything, in fluent sentences",
}
WIDTH, HEIGHT, LEFT, TOP, PLOT_WIDTH, PLOT_HEIGHT, APART = 860, 280, 44, 40, 300, 210, 420
_STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #222 }
.title { font-weight: 600 } .axis { stroke: #8888 } .grid { stroke: #8883 } .small { font-size: 11px; fill: #666 }
@media (prefers-color-scheme: dark) { text { fill: #ddd } .small { fill: #aaa } }
"""

Curves = dict[str, list[dict[str, Any]]]
"""Method → its runs: seed, steps, and a list of values per metric."""


def read(runs: Sequence[str]) -> Curves:
    """Read what every evaluation of the runs has measured."""
    curves: Curves = {}
    for folder in runs:
        config = load_config(Run(folder) / "config.yaml")
        files = sorted((Run(folder) / "evaluations").glob("step_*/results.json"))
        results = [json.loads(file.read_text(encoding="utf-8")) for file in files]
        row: dict[str, Any] = {"seed": config.seed, "steps": [one["step"] for one in results]}
        row |= {name: [round(one[name], 4) for one in results] for name in PANELS}
        curves.setdefault(config.method, []).append(row)
    return curves


def draw(curves: Curves) -> str:
    """Return the picture as SVG: a panel per metric, a thick line per method and a thin one per seed."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'aria-label="grpo uses the hole more and more, mix half as much, uniapl does not">',
        f"<style>{_STYLE}</style>",
    ]
    for number, (metric, title) in enumerate(PANELS.items()):
        parts += _panel(curves, metric, title, LEFT + number * APART)
    return "\n".join([*parts, "</svg>", ""])


def _panel(curves: Curves, metric: str, title: str, left: int) -> list[str]:
    rows = [row for runs in curves.values() for row in runs]
    last = max(row["steps"][-1] for row in rows)
    highest = max(max(row[metric]) for row in rows)
    top = next(limit for limit in (0.2, 0.4, 0.6, 0.8, 1.0) if highest <= limit)

    def at(step: float, value: float) -> tuple[float, float]:
        return left + PLOT_WIDTH * step / last, TOP + PLOT_HEIGHT * (1 - value / top)

    parts = [f'<text class="title" x="{left}" y="{TOP - 18}">{title}</text>']
    for tick in range(5):
        value = top * tick / 4
        x, y = at(0, value)
        parts.append(
            f'<line class="grid" x1="{x:.0f}" x2="{x + PLOT_WIDTH:.0f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(
            f'<text class="small" x="{x - 6:.0f}" y="{y + 4:.1f}" text-anchor="end">{value:.0%}</text>'
        )
    for step in range(0, last + 1, 20):
        x, y = at(step, 0)
        label = f"step {step}" if step == 0 else str(step)
        parts.append(
            f'<text class="small" x="{x:.0f}" y="{y + 18:.0f}" text-anchor="middle">{label}</text>'
        )
    ends: list[float] = []
    for method, colour in METHODS.items():
        runs = curves[method]
        if len(runs) > 1:
            parts += [_line(row["steps"], row[metric], at, colour, 1, 0.35) for row in runs]
        mean = [statistics.mean(values) for values in zip(*(r[metric] for r in runs), strict=True)]
        parts.append(_line(runs[0]["steps"], mean, at, colour, 3, 1.0))
        x, y = at(last, mean[-1])
        while any(abs(y - other) < 15 for other in ends):  # labels must not lie on each other
            y -= 1
        ends.append(y)
        parts.append(
            f'<text x="{x + 8:.0f}" y="{y + 4:.1f}" style="fill: {colour}">{method} {mean[-1]:.0%}</text>'
        )
    return parts


def _line(
    steps: Sequence[int], values: Sequence[float], at: Any, colour: str, width: int, opacity: float
) -> str:
    points = " ".join("{:.1f},{:.1f}".format(*at(*p)) for p in zip(steps, values, strict=True))
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}" opacity="{opacity}"/>'


def main() -> None:
    """Read runs if there are any, and draw."""
    if sys.argv[1:]:
        curves = read(sys.argv[1:])
        DATA.write_text(json.dumps(curves, indent=1) + "\n", encoding="utf-8")
    PICTURE.write_text(draw(json.loads(DATA.read_text(encoding="utf-8"))), encoding="utf-8")
    print(f"wrote {PICTURE}")


if __name__ == "__main__":
    main()
