"""The top of the page: a title in words, an honest headline, completions chosen by a rule, telling curves."""

import json
from pathlib import Path

import pytest

from uniapl.report.arms import Arm, ends, group_arms
from uniapl.report.curves import evaluation_curves, reward_against_length, telling_charts
from uniapl.report.reading import read_run
from uniapl.report.results import EvaluationMetric, evaluation_metrics
from uniapl.report.story import MAX_CHARACTERS, completions, headline, model_name, title
from uniapl.report.strips import Track, instruction_strip, value_strip
from uniapl.runs.metrics import DEFINITIONS


def arms_of(*folders: Path) -> list[Arm]:
    return group_arms([read_run(folder, max_rollouts=50) for folder in folders])


def rewrite(path: Path, change) -> None:
    rows = [
        change(index, json.loads(line)) for index, line in enumerate(path.read_text().splitlines())
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/home/me/uniapl/miniature/model", "miniature"),
        ("runs/first/policy/", "first"),
        ("Qwen/Qwen3-0.6B", "Qwen3-0.6B"),
        ("/cache/models--Qwen--Qwen3-0.6B/snapshots/c1899de2", "Qwen3-0.6B"),
        ("model", "model"),
    ],
)
def test_a_model_is_called_what_people_call_it(path: str, name: str):
    assert model_name(path) == name


def test_the_title_says_model_and_method_in_words(make_run):
    first, second = make_run("a", method="grpo"), make_run("b", method="grpo", seed=1)
    assert (
        title(arms_of(first)) == "miniature, trained by reinforcement learning from rewards (GRPO)"
    )
    assert title(arms_of(first, second)).endswith("(GRPO), 2 seeds")
    other = make_run("c", method="mix")
    assert title(arms_of(first, other)) == "miniature: grpo and mix compared"


def flags(folder: Path, step: int, passed: list[bool]) -> None:
    path = folder / "evaluations" / f"step_{step:06d}"
    rewrite(
        path / "samples.jsonl",
        lambda i, row: row | {"follow_all_strict": passed[i], "response": f"answer {i} of {step}"},
    )
    results = json.loads((path / "results.json").read_text())
    results["prompt_level_strict_acc"] = sum(passed) / len(passed)
    (path / "results.json").write_text(json.dumps(results))


def test_the_headline_says_what_is_sure_and_what_is_not(make_run):
    folder = make_run(n=10)
    flags(folder, 0, [False] * 10)
    for gained, told in ((7, "better, the interval excludes 0."), (1, "it contains 0")):
        flags(folder, 60, [True] * gained + [False] * (10 - gained))
        arms = arms_of(folder)
        metrics = evaluation_metrics(arms, {})
        found = headline(arms, metrics[0], metrics)
        assert found is not None
        assert (found["before"], found["after"]) == ("0.0", f"{gained * 10:.1f}")
        assert found["sentence"].startswith(f"+{gained * 10:.1f} points, 95 % interval")
        assert told in found["sentence"]
    assert headline(arms, None, metrics) is None


def test_two_completions_are_chosen_by_the_rule_that_is_told(make_run):
    folder = make_run(n=6)
    flags(folder, 0, [True, False, False, False, True, False])
    flags(folder, 60, [True, False, True, True, False, False])
    found = completions(arms_of(folder))
    assert found is not None
    # the first that did not gain is 0, the first that did is 2
    texts = [[pane["text"] for pane in one["panes"]] for one in found["prompts"]]
    assert texts == [["answer 0 of 0", "answer 0 of 60"], ["answer 2 of 0", "answer 2 of 60"]]
    assert found["rule"].endswith("Of 6 prompts 2 changed that way, 1 the other way.")


def test_completions_of_arms_are_those_on_which_they_differ(make_run):
    one, two = make_run("one", method="grpo", n=4), make_run("two", method="mix", n=4)
    flags(one, 60, [True, True, False, False])
    flags(two, 60, [True, False, False, True])
    found = completions(arms_of(one, two))
    assert found is not None
    assert [pane["title"] for pane in found["prompts"][0]["panes"]] == [
        *("Before training", "grpo", "mix")
    ]
    assert [one["panes"][1]["text"] for one in found["prompts"]] == [
        *("answer 1 of 60", "answer 3 of 60")
    ]
    assert "They differ on 2 of 4 prompts" in found["rule"]


def test_completions_without_outcomes_are_the_first_ones(make_run):
    folder = make_run(n=3)
    for path in folder.glob("evaluations/*/samples.jsonl"):
        rewrite(path, lambda i, row: row | {"follow_all_strict": None, "response": "x" * 2000})
    found = completions(arms_of(folder))
    assert found is not None
    assert found["rule"] == "The first 2 of 3 prompts, unseen."
    text = found["prompts"][0]["panes"][0]["text"]
    assert text.endswith(f"[{2000 - MAX_CHARACTERS} more characters]")


def test_evaluations_are_curves_with_bands_the_headline_first(make_run):
    arms = arms_of(make_run(evaluations=(0, 20, 40, 60)))
    charts = evaluation_curves(arms, evaluation_metrics(arms, {}), "joint")
    assert charts[0]["title"] == "Joint"
    assert (charts[0]["unit"], charts[0]["better"]) == ("%", "higher is better")
    (series,) = charts[0]["series"]
    assert series["x"] == [0, 20, 40, 60]
    for low, middle, high in zip(series["low"], series["y"], series["high"], strict=True):
        assert 0 <= low < middle < high <= 1
    single = arms_of(make_run("single", evaluations=(60,)))
    assert evaluation_curves(single, evaluation_metrics(single, {}), "joint") == []


def test_figures_of_a_curve_are_means_over_steps_not_single_ones(make_run):
    folder = make_run(steps=60)
    rewrite(folder / "metrics.jsonl", lambda i, row: row | {"reward/mean": float(i % 2 + i // 40)})
    (arm,) = arms_of(folder)
    # twenty steps at each end: 0, 1, 0, 1 … and 1, 2, 1, 2 …; √(20 · 0.25 / 19 / 20) = 0.1147
    assert ends(arm, "reward/mean") == {
        "first": 0.5,
        "last": 1.5,
        "error": pytest.approx(0.1147, abs=1e-4),
    }
    rewrite(folder / "metrics.jsonl", lambda i, row: row | {"reward/mean": 0.1})
    (arm,) = arms_of(folder)
    assert ends(arm, "reward/mean")["error"] == 0.0


def test_the_most_telling_curves_come_first_with_unit_and_direction(make_run):
    arms = arms_of(make_run("a", method="grpo"), make_run("b"))
    names = ["reward/mean", "rollout/zero_std_group_fraction", "objective/adversarial_weight"]
    reward, silent, weight = telling_charts(arms, names, DEFINITIONS)
    assert (reward["title"], reward["better"]) == ("Reward of the rollouts", "higher is better")
    assert (silent["title"], silent["unit"], silent["better"]) == (
        *("Groups without signal", "%", "lower is better"),
    )
    assert silent["band"] == [None, 0.9]  # the terminal's
    assert weight["arms"] == [1]  # GRPO has none
    # unit and direction are those of the run folder
    (told,) = telling_charts(arms, names[1:2], {names[1]: "Groups. In tokens; higher is better."})
    assert (told["unit"], told["percent"], told["better"]) == ("tokens", False, "higher is better")
    (silent,) = telling_charts(arms, names[1:2], {})
    assert (silent["unit"], silent["percent"], silent["better"]) == ("", False, "")


def test_reward_is_drawn_against_length(make_run):
    folder = make_run()
    for path in (folder / "rollouts").iterdir():
        rewrite(path, lambda i, row: row | {"completion": "a " * (i + 1), "reward": 0.1 * (i + 1)})
    found = reward_against_length(arms_of(folder))
    assert found is not None
    (one,) = found["arms"]
    assert set(zip(one["x"], one["y"], strict=True)) == {(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4)}
    assert (one["correlation"], one["error"]) == (1.0, 0.0)
    for path in (folder / "rollouts").iterdir():
        rewrite(path, lambda i, row: row | {"reward": None})
    assert reward_against_length(arms_of(folder)) is None


def test_a_track_holds_its_values_and_has_round_ticks():
    track = Track([0.1, None, 0.43], 0.0, 0.5)
    metric = EvaluationMetric("m", "M", "", "%", "higher")
    assert track.place(0.25) == 50.0
    assert (track.place(-1), track.place(2)) == (0.0, 100.0)
    assert [tick["text"] for tick in track.ticks(metric)] == ["0", "10", "20", "30", "40", "50"]
    assert track.bar(0.1, 0.2) == {"left": 20.0, "width": 20.0}
    assert track.bar(None, 0.2) is None
    same = Track([3.0, 3.0])
    assert 0 < same.place(3.0) < 100


def test_strips_say_in_words_what_they_draw(make_run):
    arms = arms_of(make_run("a", method="grpo"), make_run("b", method="mix"))
    metric = evaluation_metrics(arms, {})[0]
    strip = value_strip(arms, metric, None)
    assert [row["label"] for row in strip["rows"]] == ["grpo", "mix"]
    for row in strip["rows"]:
        assert row["text"].endswith(" %")
        low, high = (float(text) for text in row["interval"].split(" to "))
        assert low < float(row["text"].removesuffix(" %")) < high
    (expert,) = strip["references"]
    assert (expert["kind"], expert["text"]) == ("expert", "98.5 %")
    assert expert["x"] > max(row["bar"]["left"] + row["bar"]["width"] for row in strip["rows"])
    found = {
        "ids": ["a:b"],
        "n": [4],
        "base": [0.25],
        "expert": [1.0],
        "arms": [{"arm": 0, "strict": [0.75], "loose": [1.0]}],
    }
    (row,) = (instruction_strip(found) or {})["rows"]
    assert row["text"] == "25.0 → 75.0 %"
    assert [(m["kind"], m["x"]) for m in row["marks"]] == [
        *(("before", 25.0), ("expert", 100.0), ("after", 75.0))
    ]
    assert instruction_strip(None) is None
