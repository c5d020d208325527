import json
import math

import pytest

from uniapl.report.arms import group_arms
from uniapl.report.distributions import (
    accuracy_by_instruction,
    length_distributions,
    logprob_distributions,
    wasserstein1,
)
from uniapl.report.reading import read_run
from uniapl.report.results import (
    Measured,
    arm_change,
    arm_value,
    base_value,
    evaluation_metrics,
    expert_value,
    metric_values,
    number_text,
    pooled,
    run_change,
)
from uniapl.report.tables import benchmarks, notices, results_table


def arms_of(*folders):
    return group_arms([read_run(folder, max_rollouts=50) for folder in folders])


def edit_results(folder, step, **changes):
    path = folder / "evaluations" / f"step_{step:06d}" / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_metric_values_are_the_numbers_of_the_top_level():
    results = {"n": 5, "step": 3, "a": 0.5, "a_stderr": 0.1, "ok": True, "settings": {}, "b": 2}
    assert metric_values(results) == {"a": 0.5, "b": 2.0}


def test_numbers_are_written_with_true_minus_and_thousands():
    assert number_text(-1234.56, 1) == "−1\u202f234.6"
    assert number_text(-0.01, 1) == "0.0"
    assert number_text(0.8, 3) == "0.800"


def test_fractions_directions_and_order(finished_run):
    metrics = {m.name: m for m in evaluation_metrics(arms_of(finished_run), {"joint": "Both."})}
    assert list(metrics)[:2] == ["prompt_level_strict_acc", "inst_level_strict_acc"]
    assert list(metrics)[-2:] == ["truncated_fraction", "completion_tokens_mean"]
    assert metrics["truncated_fraction"].direction == "lower"
    assert metrics["joint"].meaning == "Both."
    assert (metrics["joint"].is_fraction, metrics["joint"].direction) == (True, "higher")
    assert (metrics["expert_nll"].is_fraction, metrics["expert_nll"].direction) == (False, "lower")
    assert metrics["completion_tokens_mean"].direction == "neither"


def test_a_share_of_one_is_no_percentage_and_a_meaning_gives_a_direction(finished_run):
    """KS stood as "27.0 %" beside "0 = the same, 1 = no overlap"."""
    edit_results(finished_run, 60, completion_tokens_ks=0.27, expert_bigram_f1=0.4, hacks=0.1)
    meanings = {"hacks": "Share of completions that cheat; lower is better."}
    metrics = {m.name: m for m in evaluation_metrics(arms_of(finished_run), meanings)}
    assert metrics["completion_tokens_ks"].with_unit(0.27) == "0.27 of 1"
    assert metrics["completion_tokens_ks"].better == "lower is better"
    assert metrics["expert_bigram_f1"].with_unit(0.4) == "0.40 of 1"
    assert metrics["hacks"].with_unit(0.1) == "10.0 %"
    assert metrics["hacks"].direction == "lower"


def test_a_change_has_sign_error_and_a_verdict_only_where_it_is_sure(finished_run):
    by_name = {m.name: m for m in evaluation_metrics(arms_of(finished_run), {})}
    strict, distance = by_name["prompt_level_strict_acc"], by_name["completion_tokens_w1"]
    assert strict.change(Measured(0.3, 0.05)) == {
        "text": "+30.0",
        "error": "± 5.0",
        "verdict": "better",
    }
    assert strict.change(Measured(-0.3, 0.05))["verdict"] == "worse"
    assert strict.change(Measured(0.09, 0.05))["verdict"] == "cannot tell"  # 1.8 errors
    assert strict.change(Measured(0.3, 0.05), num_seeds=2)["verdict"] == "cannot tell"
    assert distance.change(Measured(8.0, 1.0))["verdict"] == "worse"
    assert distance.change(Measured(8.0)) == {"text": "+8.0", "error": "", "verdict": "cannot tell"}
    assert by_name["completion_tokens_mean"].change(Measured(8.0, 1.0))["verdict"] == ""
    assert strict.error(Measured(0.2, 0.0001)) == "± <0.1"
    assert strict.error(Measured(0.0, 0.0)) == ""  # the formula knows nothing at 0 %
    assert strict.change(None)["text"] == "–"


def test_a_change_is_paired_by_prompt(make_run):
    folder = make_run(n=4, evaluations=(0, 60))
    for step, outcomes in ((0, (0.0, 0.0, 0.5, 1.0)), (60, (0.5, 0.5, 1.0, 1.0))):
        path = folder / "evaluations" / f"step_{step:06d}" / "samples.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row, value in zip(rows, outcomes, strict=True):
            row["metrics"]["fluency"] = value
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        edit_results(folder, step, fluency=sum(outcomes) / 4, fluency_stderr=0.2)
    (arm,) = arms_of(folder)
    found = run_change(arm.runs[0], "fluency")
    # differences .5 .5 .5 0: mean .375, variance 3 · .125² + .375² over 3 = .0625; √(.0625 / 4) = .125
    assert found is not None
    assert (found.value, found.stderr) == (pytest.approx(0.375), pytest.approx(0.125))
    assert (found.low, found.high) == (pytest.approx(0.13), pytest.approx(0.62))
    # no outcome of a prompt is known: √(.2² + .2²)
    for path in folder.glob("evaluations/*/samples.jsonl"):
        path.unlink()
    (arm,) = arms_of(folder)
    apart = arm_change([arm], arm, "fluency")
    assert apart is not None
    assert apart.stderr == pytest.approx(0.2 * math.sqrt(2))


def test_few_seeds_have_wide_intervals():
    one, other, third = (Measured(v, 0.001) for v in (0.4, 0.5, 0.6))
    found = pooled([one, other, third])
    # spread 0.1, error 0.1 / √3, and Student's 4.30 for two degrees of freedom
    assert found is not None
    assert found.factor == 4.30
    assert found.high == pytest.approx(0.5 + 4.30 * 0.1 / math.sqrt(3))
    assert pooled([]) is None
    assert pooled([one]) == one


def test_arm_value_pools_seeds(make_run):
    first, second = make_run("a", seed=0), make_run("b", seed=1)
    wide = {"prompt_level_strict_acc_stderr": 0.04}
    edit_results(first, 60, prompt_level_strict_acc=0.4, **wide)
    edit_results(second, 60, prompt_level_strict_acc=0.5, **wide)
    (arm,) = arms_of(first, second)
    found = arm_value(arm, "prompt_level_strict_acc", -1)
    # spread: std 0.0707 / √2 = 0.05; own errors: √(2 · 0.04²) / 2 = 0.0283; the greater counts
    assert found is not None
    assert (found.value, found.stderr) == (pytest.approx(0.45), pytest.approx(0.05))
    edit_results(second, 60, prompt_level_strict_acc=0.4, **wide)
    (arm,) = arms_of(first, second)
    found = arm_value(arm, "prompt_level_strict_acc", -1)
    assert found is not None
    assert found.stderr == pytest.approx(0.04 / math.sqrt(2))


def test_base_is_step_zero_of_one_model(make_run):
    late = make_run("late", evaluations=(30, 60))
    assert base_value(arms_of(late), "fluency") is None
    small = make_run("small")
    other = make_run("other", method="mix", model={"path": "elsewhere"})
    found = base_value(arms_of(small), "fluency")
    assert found is not None
    assert found.value == pytest.approx(0.91)
    assert found.stderr == pytest.approx(math.sqrt(0.91 * 0.09 / 40))
    assert base_value(arms_of(small, other), "fluency") is None


def test_expert_length_comes_from_its_own_key(finished_run):
    edit_results(finished_run, 60, expert_completion_tokens_mean=31.5)
    arms = arms_of(finished_run)
    assert expert_value(arms, "completion_tokens_mean") == Measured(31.5)
    assert expert_value(arms, "prompt_level_strict_acc") == Measured(0.985)
    assert expert_value(arms, "expert_nll") is None


def test_tables_of_one_run_and_of_many(make_run):
    one, two = make_run("one", evaluations=(0, 10, 20, 30, 40, 50, 60)), make_run("two", seed=1)
    arms = arms_of(one)
    table = results_table(arms, evaluation_metrics(arms, {}))
    assert table is not None
    assert table["columns"] == ["before", "step 60"]
    assert table["left_out"] == 5
    arms = arms_of(two, make_run("three", method="grpo"))
    table = results_table(arms, evaluation_metrics(arms, {}))
    assert table is not None
    assert [row["name"] for row in table["rows"]] == ["uniapl", "grpo"]
    verdicts = {c["change"]["verdict"] for row in table["rows"] for c in row["cells"]}
    assert verdicts == {"", "cannot tell"}  # one seed of each arm carries nothing


def test_benchmarks_of_a_run_are_read(make_run):
    folder = make_run()
    results = {
        "prompt_level_strict_acc": 0.25,
        "prompt_level_strict_acc_stderr": 0.02,
        "completion_tokens_ks": 0.5,
        "n": 541,
        "num_missing": 3,
    }
    where = folder / "evaluations" / "ifeval"
    where.mkdir()
    (where / "results.json").write_text(json.dumps(results))
    (folder / "evaluations" / "unfinished").mkdir()
    (found,) = benchmarks(arms_of(folder))
    assert (found["name"], found["n"], found["missing"]) == ("ifeval", 541, 3)
    told = [(row["metric"].name, row["text"], row["error"]) for row in found["rows"]]
    assert told == [
        ("prompt_level_strict_acc", "25.0", "± 2.0"),
        ("completion_tokens_ks", "0.50", ""),
    ]


def test_unfinished_runs_are_told(make_run):
    folder = make_run(training={"steps": 200})
    (line,) = notices(arms_of(folder))
    assert line == "run: 60 of 200 steps; the run is not finished."


def test_wasserstein1_by_hand():
    assert wasserstein1([0, 1], [2, 3]) == pytest.approx(2.0)
    assert wasserstein1([0, 0, 3], [0, 3]) == pytest.approx(0.5)  # |2/3 − 1/2| · 3
    assert wasserstein1([1.5], [1.5]) == 0
    assert wasserstein1([], [1]) is None


def rewrite_samples(folder, change):
    for path in folder.glob("evaluations/*/samples.jsonl"):
        rows = [change(json.loads(line)) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_lengths_are_tokens_where_both_sides_have_them(finished_run):
    found = length_distributions(arms_of(finished_run))
    assert found is not None
    assert found["unit"] == "tokens"
    assert sum(found["expert"]) == pytest.approx(1, abs=1e-3)
    assert sum(found["arms"][0]["after"]) == pytest.approx(1, abs=1e-3)
    assert found["arms"][0]["w1_before"] > found["arms"][0]["w1_after"]


def test_lengths_fall_back_to_words_of_both_sides(finished_run):
    def without_tokens(row):
        row.pop("expert_completion_tokens")
        return row | {"response": "one two three", "expert_completion": "one two three four"}

    rewrite_samples(finished_run, without_tokens)
    found = length_distributions(arms_of(finished_run))
    assert found is not None
    assert found["unit"] == "words"
    assert found["arms"][0]["w1_after"] == pytest.approx(1.0)


def test_logprobs_and_expert_are_optional(finished_run):
    assert logprob_distributions(arms_of(finished_run)) is not None
    rewrite_samples(finished_run, lambda row: row | {"logprob_mean": None})
    assert logprob_distributions(arms_of(finished_run)) is None
    rewrite_samples(finished_run, lambda row: row | {"expert_completion": None})
    rewrite_samples(finished_run, lambda row: row | {"expert_completion_tokens": None})
    assert length_distributions(arms_of(finished_run)) is None


def test_logprobs_under_the_base_have_a_distribution_of_their_own(finished_run):
    assert logprob_distributions(arms_of(finished_run), "base_") is None
    moved = {"base_logprob_mean": -3.0, "expert_base_logprob_mean": -1.0}
    rewrite_samples(finished_run, lambda row: row | moved)
    found = logprob_distributions(arms_of(finished_run), "base_")
    assert found is not None
    assert found["arms"][0]["w1_after"] == 2.0


def test_instructions_are_sorted_by_gain(finished_run):
    before = {"a": {"strict": 0.5, "loose": 0.5, "n": 4}, "b": {"strict": 0.1, "loose": 0, "n": 2}}
    after = {"a": {"strict": 0.6, "loose": 0.7, "n": 4}, "b": {"strict": 0.9, "loose": 1, "n": 2}}
    edit_results(finished_run, 0, by_instruction=before)
    edit_results(finished_run, 60, by_instruction=after, expert={"by_instruction": after})
    found = accuracy_by_instruction(arms_of(finished_run))
    assert found == {
        "ids": ["b", "a"],
        "n": [2, 4],
        "base": [0.1, 0.5],
        "expert": [0.9, 0.6],
        "arms": [{"arm": 0, "strict": [0.9, 0.6], "loose": [1, 0.7]}],
    }
