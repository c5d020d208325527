"""The benchmarks at a tiny scale: that they run, count what they say and keep what they measured."""

import importlib.util
import json
import os
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from benchmarks import hardware, measuring, ranks, rollouts, scaling, shapes, step, tables, training
from benchmarks.measuring import Measurement, Section, ratios, read_results, spread

Run = Callable[..., dict[str, Any]]
PRELOADED = "uniapl.training.step"
"""The parent of such processes is the same for all tests: what the first one preloads, no later turn imports."""
TINY = ["--shape", "tiny", "--device", "cpu", "--dtype", "float32", "--rounds", "2"]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    return lambda benchmark, *words: run_and_read(benchmark, tmp_path, words, capsys)


def run_and_read(
    benchmark: ModuleType, folder: Path, words: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> dict[str, Any]:
    """Run the command and return its only section, as the file has it."""
    output = folder / "results.json"
    benchmark.main([*TINY, "--output", str(output), *words])
    printed = capsys.readouterr().out
    assert printed
    tables.main([str(output)])
    assert capsys.readouterr().out == printed
    results = read_results(output)
    (name,) = set(results) - {"whole_step_ratio"}
    assert results[name]["is_complete"]
    assert len(results[name]["rounds"]) == 2
    return results[name]


def options(folder: Path, **changes: Any) -> Namespace:
    values = {"output": folder / "r.json", "device": "cpu", "rounds": 3, "minutes": 1.0}
    return Namespace(**{**values, **changes})


def turn(seconds: float, units: int = 10) -> Measurement:
    return Measurement(wall_seconds=seconds, cpu_seconds=2 * seconds, units=units)


def test_ratios_are_taken_inside_rounds() -> None:
    # the machine is ten times slower in the second round: a ratio of medians would be off
    rounds = [
        {"ours": turn(1.0), "other": turn(2.0)},
        {"ours": turn(10.0), "other": turn(30.0)},
        {"ours": turn(1.0, units=5), "other": turn(2.0)},
    ]
    expected = {"median": 2.0, "min": 1.0, "max": 3.0}
    assert ratios(rounds, "ours") == {"ours / other": expected}
    assert spread([3.0, 1.0, 2.0]) == {"median": 2.0, "min": 1.0, "max": 3.0}


def test_contestants_take_turns_and_a_stopped_run_goes_on(tmp_path: Path) -> None:
    calls: list[str] = []

    def contestant(name: str) -> measuring.Contestant:
        return lambda: calls.append(name) or 7

    contestants = {name: contestant(name) for name in "ab"}
    Section("s", options(tmp_path, rounds=2)).run(contestants, lambda rounds: {"n": len(rounds)})
    assert "".join(calls) == "ab" + "abab"  # the first turn is not counted
    calls.clear()
    section = Section("s", options(tmp_path)).run(contestants, lambda rounds: {"n": len(rounds)})
    assert "".join(calls) == "ab" + "ab"
    assert section["n"] == 3
    calls.clear()
    Section("s", options(tmp_path)).run(contestants, lambda rounds: {"n": len(rounds)})
    assert calls == []
    Section("s", options(tmp_path, tokens=5)).run(contestants, lambda rounds: {"n": len(rounds)})
    assert "".join(calls) == "ab" * 4  # another setting begins anew
    (kept,) = json.loads((tmp_path / "r.json").read_text()).values()
    assert [r["a"]["units"] for r in kept["rounds"]] == [7, 7, 7]


def process_of(turn_name: str) -> Measurement:
    if turn_name == "failing":
        raise ValueError("no such contestant")
    return Measurement(1.0, 1.0, os.getpid(), {"threads": torch.get_num_threads()})


def test_a_turn_in_a_process_of_its_own() -> None:
    turns = [measuring.in_own_process(process_of, "a", preloaded=PRELOADED) for _ in range(2)]
    assert len({os.getpid(), *(turn.units for turn in turns)}) == 3
    assert turns[0].details["threads"] >= 1
    with pytest.raises(ValueError, match="no such contestant"):
        measuring.in_own_process(process_of, "failing", preloaded=PRELOADED)


def test_what_a_turn_says_besides_is_kept(tmp_path: Path) -> None:
    turns = {"a": lambda: Measurement(1.0, 2.0, 3, {"peak": 4.0})}
    for rounds in (1, 2):
        section = Section("s", options(tmp_path, rounds=rounds)).take_turns(
            turns, lambda rounds: {"peaks": [r["a"].details["peak"] for r in rounds]}
        )
    assert section["peaks"] == [4.0, 4.0]


def test_no_round_begins_that_may_end_too_late(tmp_path: Path) -> None:
    bounded = options(tmp_path, rounds=100, minutes=0.25 / 60)
    section = Section("s", bounded).run({"a": lambda: time.sleep(0.1) or 1}, lambda _rounds: {})
    assert 1 <= len(section["rounds"]) <= 3
    assert not section["is_complete"]


def test_limits_of_decoding_by_hand() -> None:
    model = shapes.build_model("tiny", torch.float32, torch.device("cpu"))
    weights = sum(p.numel() for p in model.parameters())  # tied: the table is the head
    cached = 2 * 2 * 2 * 8  # keys and values, layers, heads, width
    # two rows of 1 and 3 tokens after 10: three steps with 2, 1, 1 rows
    limits = hardware.decoding_limits(model, [1, 3], 10, bandwidth=1e6, flops=1e7)
    moved = 4 * (3 * weights + cached * (2 * 10 + 11 + 12))
    assert limits["memory"] == pytest.approx(4 * 1e6 / moved)
    assert limits["arithmetic"] == pytest.approx(4 * 1e7 / (2 * weights * 4))


def test_operations_of_training_by_hand() -> None:
    model = shapes.build_model("tiny", torch.float32, torch.device("cpu"))
    weights = sum(p.numel() for p in model.parameters())
    # 5 tokens after 3 that are only attended to: 4+5+6+7+8 pairs, 2 layers of 4 heads of width 8
    expected = 3 * (2 * weights * 5 + 4 * 2 * 4 * 8 * 30)
    assert hardware.training_flops(model, [(5, 3)]) == pytest.approx(expected)


def test_a_line_and_its_residual() -> None:
    found = scaling.fit({1: 3.0, 2: 5.0, 3: 7.0})
    assert found["seconds_per_unit"] == pytest.approx(2.0)
    assert found["seconds_at_zero"] == pytest.approx(1.0)
    assert found["worst_residual"] == pytest.approx(0.0, abs=1e-9)
    # 1, 2, 6: the line is 2.5 x - 2; at 2 it says 3
    assert scaling.fit({1: 1.0, 2: 2.0, 3: 6.0})["worst_residual"] == pytest.approx(0.5)


@pytest.mark.parametrize("words", [(), ("--mean-length", "5")])
def test_rollouts(run: Run, words: tuple[str, ...]) -> None:
    engines = "ours,ours static,generate"
    section = run(rollouts, "--prompts", "2", "--tokens", "6", "--engines", engines, *words)
    assert set(section["tokens_per_second"]) == set(engines.split(","))
    assert set(section["ratios"]) == {"ours / ours static", "ours / generate"}
    units = [t["units"] for turns in section["rounds"] for t in turns.values()]
    if words:
        assert min(units) < 48
    else:
        assert units == [2 * 4 * 6] * 6


def test_training(run: Run) -> None:
    section = run(training, "--prompts", "2", "--tokens", "8")
    assert set(section["tokens_per_second"]) == {"shared", "unshared", "padded"}
    assert all(0 < share < 1 for share in section["utilisation"].values())


def test_the_layouts_of_training_give_the_same_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `unshared` and `padded` compute is one and the same, or the comparison says nothing."""
    namespace = Namespace(
        shape="tiny", prompts=2, group_size=3, prompt_length=5, tokens=9, micro_batch_tokens=40
    )
    policy = training.LanguageModel(
        shapes.build_model("tiny", torch.float32, torch.device("cpu")), torch.float32, 7
    )
    completions = training.Completions(namespace)
    monkeypatch.setattr(policy, "zero_grad", lambda: None)
    found = []
    for contestant in (
        training.packed(policy, completions, is_shared=False),
        training.padded(policy, completions),
    ):
        contestant()
        found.append(
            {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}
        )
        for parameter in policy.parameters():
            parameter.grad = None
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_scaling(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "FACTORS", (1, 2))
    section = run(scaling, "--tokens", "2", "--prompt-length", "8")
    assert len(section["fits"]) == 2 * len(scaling.AXES)
    assert set(section["update_peak_gib"]) == {"sequences", "micro_batch_tokens"}


STEP = ("--prompts", "2", "--demonstrations", "2", "--paired", "1", "--tokens", "5")


def test_step_of_ours(run: Run) -> None:
    section = run(step, *STEP, "--without-trl")
    assert set(section["seconds"]) == {"uniapl", "uniapl equal", "uniapl scalar", "mix"}
    for shares in section["stage_shares"].values():
        assert sum(shares.values()) == pytest.approx(1)
    assert section["stage_shares"]["uniapl"]["discriminator"] > 0.01
    assert section["stage_shares"]["mix"]["discriminator"] < 0.01
    assert all(0.01 < peak < 10 for peak in section["peak_memory_gib"].values())


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("trl"), reason="needs the extra `bench`")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_step_beside_trl_trains_on_the_same_tokens(run: Run) -> None:
    from benchmarks.trl_steps import TrlSteps

    seen: list[tuple[int, ...]] = []
    section = run(step, *STEP)
    assert set(section["whole_step_ratio"]) == {"median", "min", "max"}
    assert set(section["peak_memory_gib"]) == {*step.CONTESTANTS, "trl"}
    work = step.Work(Namespace(**{**section["setting"], "warm_ups": 1}))
    with TrlSteps(work, 1e-6) as trl:
        rollouts_, shown = trl.trainers
        assert [len(row["input_ids"]) for row in shown.train_dataset] == [128 + 5] * 6
        expected = [(*prompt, *completion, 1) for prompt, completion in work.shown]
        assert [tuple(row["input_ids"]) for row in shown.train_dataset] == expected
        reward = rollouts_.reward_funcs[0]

        def recorded(completion_ids: list[list[int]], **columns: Any) -> list[float]:
            seen.extend(map(tuple, completion_ids))
            return reward(**columns)

        rollouts_.reward_funcs[0] = recorded
        trl.step()
    assert [len(ids) for ids in seen] == [5] * 2 * 8  # prompts, rollouts of each


@pytest.mark.long
def test_ranks_are_compared_with_a_plain_process(run: Run) -> None:
    words = ("--contestants", "plain", "one-rank", "one-rank-full", "--steps", "1")
    section = run(ranks, *words, "--method", "sft")
    assert set(section["ratios"]) == {"plain / one-rank", "plain / one-rank-full"}
    for turns in section["rounds"]:
        assert {turn["units"] for turn in turns.values()} == {1}
        assert all(turn["details"]["update"] > 0 for turn in turns.values())
