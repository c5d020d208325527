"""A situation's page: tables by hand, curves that stay when their runs are gone, labels that can be read."""

import json
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from benchmarks import situation
from benchmarks.drawing import LINE, Panel, Series, picture, ticks

SVG = "{http://www.w3.org/2000/svg}"
NAMES = ("prompt_level_strict_acc", "fluency", "joint", "completion_tokens_w1")


def _found(mean: float, spread: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - spread, "high": mean + spread}


def _result() -> dict[str, Any]:
    def arm(mean: float, run: str) -> dict[str, Any]:
        return {
            "seeds": [0, 1, 2],
            "metrics": {name: _found(mean, 0.05) for name in NAMES},
            "cost": {"seconds": 90 * (1 + mean)},
            "runs": [run, "runs/gone", "runs/gone"],
        }

    return {
        "baseline": "mix",
        "before": dict.fromkeys(NAMES, 0.125),
        "arms": {"mix": arm(0.25, "runs/mix"), "uniapl": arm(0.5, "runs/uniapl")},
        "differences": {
            "uniapl": {
                "seeds": [0, 1, 2],
                "metrics": {"joint": _found(0.25, 0.05), "fluency": _found(-0.01, 0.05)},
            }
        },
    }


@pytest.fixture
def comparison(tmp_path: Path) -> Path:
    """Return a comparison's folder with two runs, each with two evaluations."""
    folder = tmp_path / "comparison"
    (folder / "arms").mkdir(parents=True)
    command = [str(tmp_path / "uniapl"), "train", f"output_dir={folder}/runs/mix"]
    arm = {"environment": {"command": command}}
    (folder / "arms" / "mix-seed-0.json").write_text(json.dumps(arm))
    (folder / "comparison.json").write_text(json.dumps(_result()))
    for name, value in (("mix", 0.25), ("uniapl", 0.5)):
        for step in (0, 50):
            place = folder / "runs" / name / "evaluations" / f"step_{step:06d}"
            place.mkdir(parents=True)
            row = {"step": step, **dict.fromkeys(NAMES, value * step / 50)}
            (place / "results.json").write_text(json.dumps(row))
        config = "{seed: 0, output_dir: x, method: mix, training: {steps: 50}, model: {path: m}, "
        config += "data: {demonstrations: d, prompts: p}}"
        (folder / "runs" / name / "config.yaml").write_text(config)
    return folder


def test_a_situation_is_written_and_told(
    comparison: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    docs = tmp_path / "docs"
    situation.main([str(comparison), str(docs)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| arm | seeds | strict | fluency | joint | W1 |"
    assert lines[2] == "| before training |  | .125 | .125 | .125 | .125 |"
    assert lines[4].startswith("| `uniapl` | 3 | .500 [.450, .550] |")
    assert lines[-1] == "| `uniapl` | 3 |  | -.010 [-.060, .040] | **+.250** [.200, .300] |  |"
    assert str(tmp_path) not in (docs / "arms" / "mix-seed-0.json").read_text()
    curves = json.loads((docs / "curves.json").read_text())
    assert curves["uniapl"] == [{"seed": 0, "steps": [0, 50], **{n: [0.0, 0.5] for n in NAMES}}]
    words = {e.text for e in ElementTree.parse(docs / "curves.svg").iter(f"{SVG}text")}
    assert {"mix 25%", "uniapl 50%", "uniapl 0.50"} <= words
    words = {e.text for e in ElementTree.parse(docs / "plane.svg").iter(f"{SVG}text")}
    assert {"mix", "uniapl", "answers that follow everything"} <= words


def test_curves_of_runs_that_are_gone_stay(comparison: Path, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    situation.main([str(comparison), str(docs)])
    before = json.loads((docs / "curves.json").read_text())
    (comparison / "runs").rename(tmp_path / "elsewhere")
    more = {**before, "uniapl": [*before["uniapl"], {**before["uniapl"][0], "seed": 7}], "gone": []}
    (docs / "curves.json").write_text(json.dumps(more))
    situation.main([str(comparison), str(docs)])
    assert json.loads((docs / "curves.json").read_text()) == before, "those of this comparison"


def test_few_seeds_find_nothing() -> None:
    assert situation._interval(_found(0.25, 0.05), 3, signed=True).startswith("**+.250**")
    assert situation._interval(_found(0.25, 0.05), 2, signed=True).startswith("+.250 ")


def test_labels_lie_apart_and_keep_their_order() -> None:
    levels = (0.5, 0.51, 0.49, 0.5, 0.1)
    series = [Series(str(i), "red", [(0, 0), (1, y)]) for i, y in enumerate(levels)]
    drawn = ElementTree.fromstring(
        picture([Panel("t", series, [0, 1], [0, 0.5, 1])], 'a "picture"')
    )
    places = {
        e.text: float(e.get("y", ""))
        for e in drawn.iter(f"{SVG}text")
        if "style" in e.attrib and e.text
    }
    order = sorted(places, key=places.__getitem__)
    assert order == ["1", "0", "3", "2", "4"]
    gaps = [places[b] - places[a] for a, b in pairwise(order)]
    assert min(gaps) > LINE - 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 0.87], [0, 0.25, 0.5, 0.75, 1.0]),
        ([0, 60], [0, 20, 40, 60]),
        ([0.79, 0.91], [0.75, 0.8, 0.85, 0.9, 0.95]),
        ([3.0, 3.0], [3.0, 4.0]),
    ],
)
def test_ticks_are_round_and_hold_all_values(values: list[float], expected: list[float]) -> None:
    assert ticks(values) == expected


def test_an_axis_says_what_its_ticks_are() -> None:
    one = Series("one", "red", [(0, 0), (1, 0.1)])
    drawn = ElementTree.fromstring(picture([Panel("t", [one], [0, 1], ticks([0, 0.1]))], "t"))
    words = [e.text for e in drawn.iter(f"{SVG}text") if e.get("text-anchor") == "end"]
    assert words == ["0%", "2.5%", "5%", "7.5%", "10%"]
