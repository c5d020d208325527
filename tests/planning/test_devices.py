"""Several devices in a plan: what each holds, what a step sends, by hand and beside what FSDP2 really sends."""

import dataclasses
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_model
from tiny_runs import Tiny
from torch.utils._python_dispatch import TorchDispatchMode

from uniapl import cli
from uniapl.errors import InputError
from uniapl.models.footprint import counted
from uniapl.models.language_model import LanguageModel
from uniapl.models.packing import TokenSequence, pack
from uniapl.planning import RunPlan, here, plan_lines, plan_run
from uniapl.planning.devices import Devices, pretended
from uniapl.planning.rehearsal import Phase

ROWS_AND_COLUMNS = [
    (264, 32),
    *2 * [(32, 32), (16, 32), (16, 32), (32, 32), (64, 32), (64, 32), (32, 64), (8, 1), (8, 1)],
    *5 * [(32, 1)],
]
"""Of the tiny model: tied embeddings; of two layers q, k, v, o, the MLP and the norms of q and k; the norms."""
WEIGHTS = sum(rows * columns for rows, columns in ROWS_AND_COLUMNS)
FULL = "training.sharding=full"
SERVED = ("rollout.engine=vllm", "rollout.servers=[http://127.0.0.1:1]", "rollout.importance_cap=2")

Planner = Callable[..., RunPlan]


def part(devices: int) -> int:
    """Weights of the first of some devices: FSDP2 gives each equally many rows, rounded up."""
    return sum(-(-rows // devices) * columns for rows, columns in ROWS_AND_COLUMNS)


@pytest.fixture(scope="module")
def plan(tiny: Tiny) -> Planner:
    def planned(count: int, *words: str) -> RunPlan:
        config = tiny.load(Path("unused"), *words)
        return plan_run(config, devices=here(config, count))

    return cache(planned)


@pytest.mark.parametrize("devices", [1, 2, 3])
def test_full_divides_weights_gradients_and_optimiser(plan: Planner, devices: int):
    made = plan(devices, FULL, "objective.kl_coef=0.1")
    own = part(devices)
    assert {name: (r.weights, r.trained, r.optimizer) for name, r in made.roles.items()} == {
        "policy": (4 * own, 4 * own, 8 * own),
        "reference": (4 * own, 0, 0),
        "discriminator": (4 * own, 4 * own, 8 * own),
    }
    assert made.phases["update"].parts["gradients"] == 4 * own
    assert made.phases["save"].parts == {"whole policy": 4 * WEIGHTS}
    assert made.checkpoint == 24 * own * devices


def test_captured_graphs_keep_the_whole_policy(plan: Planner):
    dynamic, static = (plan(4, FULL, f"rollout.cache={cache}") for cache in ("dynamic", "static"))
    for name in ("judge", "update"):
        whole = static.phases[name].parts["whole policy"]
        assert static.phases[name].needed == dynamic.phases[name].needed + whole


def test_none_holds_whole_models_and_a_message(plan: Planner):
    one, two = plan(1), plan(2)
    assert two.roles == one.roles
    assert two.phases["sum"].parts == {"gradients": 8 * WEIGHTS, "message": 4 * WEIGHTS}
    assert two.phases["sum"].needed == 12 * WEIGHTS
    assert "sum" not in one.phases


def test_the_work_is_dealt_by_groups_and_micro_batches(plan: Planner):
    one, two, three = (plan(n, "training.micro_batch_tokens=1") for n in (1, 2, 3))
    assert one.busiest == one.tokens == two.tokens == three.tokens
    assert two.busiest.sampled == 2 * 4 * 12, "two of four groups of four"
    assert three.busiest.sampled == 2 * 4 * 12
    assert one.tokens.trained / 2 <= two.busiest.trained < 0.7 * one.tokens.trained
    # a rollout needs the cache of two groups in place of four
    caches = [made.phases["rollout"].parts["KV cache"] for made in (one, two)]
    assert caches[0] == pytest.approx(2 * caches[1], rel=0.1)
    assert two.phases["update"].needed == one.phases["update"].needed


@pytest.mark.parametrize(("devices", "rounds"), [(1, 4), (2, 2), (3, 2), (8, 1)])
def test_what_full_sends_by_hand(plan: Planner, devices: int, rounds: int):
    words = ("method=sft", "training.micro_batch_tokens=1", "data.demonstrations_per_step=4")
    made = plan(devices, FULL, *words)
    share = (devices - 1) / devices
    sent = {"policy": int(rounds * 3 * share * 4 * WEIGHTS)} if devices > 1 else {}
    assert made.communication.sent == sent
    seconds = made.communication.seconds(dataclasses.replace(made.devices, bandwidth=2.0))
    assert seconds == made.communication.total / 2e9


def test_what_none_sends_by_hand(plan: Planner):
    made = plan(4)
    each = int(2 * 3 / 4 * 4 * WEIGHTS)
    assert made.communication.sent == {"policy": each, "discriminator": each}
    assert plan(1).communication.sent == {}
    adapters = plan(2, "model.tuning=lora", "discriminator.backbone=lora", "lora.rank=4")
    assert 0 < adapters.communication.sent["policy"] < WEIGHTS


class Sent(TorchDispatchMode):
    """Adds up what collectives carry, bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.gathered = self.scattered = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.c10d._allgather_base_.default:
            self.gathered += args[0].nbytes
        if func is torch.ops.c10d._reduce_scatter_base_.default:
            self.scattered += args[1].nbytes
        return func(*args, **(kwargs or {}))


def test_a_pass_sends_what_the_plan_says():
    sequence = TokenSequence((5, 6, 7), (8, 9, 4))
    (packed,) = pack([sequence], 100)
    with torch.device("meta"):
        model = LanguageModel(tiny_model(), torch.float32)
    with pretended(Devices("cpu", 1, 2)), counted() as footprint:
        footprint.place(model)
        model.shard()
        own = footprint.packed(packed)
        with Sent() as learning:
            model.logprobs(own).sum().backward()
        with Sent() as forward, torch.no_grad():
            model.logprobs(own)
    assert (learning.gathered, learning.scattered) == (8 * WEIGHTS, 4 * WEIGHTS)
    assert (forward.gathered, forward.scattered) == (4 * WEIGHTS, 0)


def sent(made: RunPlan, role: str) -> float:
    """Return what a role's passes send, in whole models gathered or summed by one of two devices."""
    return made.communication.sent[role] / (0.5 * 4 * WEIGHTS)


def test_what_is_measured_and_pairs_are_sent_too(plan: Planner, tiny: Tiny, tmp_path: Path):
    one = "training.micro_batch_tokens=1000000"
    bare = plan(2, FULL, one, "data.held_out_demonstrations=0")
    measured = plan(2, FULL, one, "data.held_out_demonstrations=2")
    for role in ("policy", "discriminator"):
        assert sent(measured, role) == pytest.approx(sent(bare, role) + 1)
    scored = ("discriminator.form=scalar", "constraint.target=0.7")
    ranks = plan(2, FULL, one, "data.held_out_demonstrations=2", *scored)
    assert sent(ranks, "policy") == pytest.approx(sent(bare, "policy"))
    assert sent(ranks, "discriminator") == pytest.approx(3 + 1 + 1, abs=0.01), "with its head"
    expert = ("discriminator.form=expert", f"discriminator.path={tiny.model}")
    known, hinted = (
        plan(2, FULL, one, *expert, f"discriminator.hint={hint}") for hint in ("false", "true")
    )
    assert sent(known, "discriminator") == pytest.approx(2)
    assert sent(hinted, "discriminator") == pytest.approx(1)
    pairs = tmp_path / "pairs.jsonl"
    row = {"prompt": "one two", "chosen": "three four", "rejected": "five"}
    pairs.write_text(4 * (json.dumps(row) + "\n"))
    weight = ("objective.pair_weight=0.5", f"data.pairs={pairs}")
    preferred = plan(2, FULL, one, "data.held_out_demonstrations=0", *weight)
    assert sent(preferred, "policy") == pytest.approx(sent(bare, "policy") + 3)
    assert sent(preferred, "reference") == pytest.approx(1)
    assert preferred.tokens.trained > bare.tokens.trained


def test_a_batch_is_sampled_once_for_all_of_its_updates(plan: Planner):
    made = {n: plan(2, FULL, f"rollout.updates_per_rollout={n}") for n in (1, 2)}
    for updates, one in made.items():
        assert sent(one, "sampling") == pytest.approx(1 / updates)
    assert sent(made[1], "policy") == sent(made[2], "policy"), "log π_old was sampled"
    caches = [one.phases["rollout"].parts["KV cache"] for one in made.values()]
    assert caches[1] == pytest.approx(2 * caches[0], rel=0.1)
    bf16 = plan(2, FULL, "rollout.updates_per_rollout=2", "model.dtype=bfloat16")
    assert sent(bf16, "policy") == pytest.approx(sent(made[2], "policy") + 1)


def test_an_evaluation_holds_the_whole_policy_while_it_samples(plan: Planner):
    """Comparing with the model before training needs more here, and the whole policy is gone by then."""
    words = ("evaluation.max_completion_tokens=1", "objective.kl_coef=0")
    dynamic, static = (plan(2, FULL, *words, f"rollout.cache={c}") for c in ("dynamic", "static"))
    assert set(dynamic.phases["evaluation"].parts) == {"model before training"}
    assert static.phases["evaluation"].parts["whole policy"] == 4 * WEIGHTS


def test_servers_get_a_folder_and_no_device_samples(plan: Planner):
    made = plan(2, FULL, "model.dtype=bfloat16", *SERVED)
    assert made.communication.folder == 2 * WEIGHTS
    assert made.communication.folder_seconds(made.devices) == 4 * WEIGHTS / 1e9
    assert "rollout" not in made.phases
    assert plan(2, FULL).communication.folder == 0
    assert any(line.startswith("servers: ") for line in plan_lines(made))
    with pytest.raises(InputError, match=r"rollout\.ahead: must be 0 with several ranks, got 1"):
        plan(2, *SERVED, "rollout.ahead=1")


def test_one_device_is_no_option(tiny: Tiny, capsys: pytest.CaptureFixture[str]):
    printed = []
    for words in ([], ["--devices", "1"]):
        assert cli.main(["plan", str(tiny.config), *words]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert "communication" not in printed[0]


def test_several_devices_are_said(tiny: Tiny, capsys: pytest.CaptureFixture[str]):
    words = ["--devices", "4", "--memory", "80", "--bandwidth", "100"]
    assert cli.main(["plan", str(tiny.config), *words]) == 0
    out = capsys.readouterr().out
    assert "4 cuda devices with 80.0 GiB each, training.sharding none" in out
    assert "at 100 GB/s (--bandwidth)" in out
    assert "busiest device: 25% of the sampled" in out
    assert "steps an hour" in out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--devices", "0"], "--devices: must be at least 1, got 0"),
        (["--devices", "-3"], "--devices: must be at least 1, got -3"),
        (["--devices", "two"], "argument --devices: invalid int value: 'two'"),
        (["--devices", "2", "--bandwidth", "0"], "--bandwidth: must be above 0, got 0"),
        (["--bandwidth", "9"], "--bandwidth: has no effect with --devices 1"),
        (
            ["--folder-bandwidth", "9"],
            "--folder-bandwidth: has no effect, since no server samples rollouts",
        ),
        ([*SERVED, "--folder-bandwidth", "nan"], "--folder-bandwidth: must be above 0, got nan"),
        (["--memory", "-1"], "--memory: must be above 0, got -1"),
        (["--memory", "nan"], "--memory: must be a finite number above 0, got nan"),
        (["--memory", "inf"], "--memory: must be a finite number above 0, got inf"),
    ],
)
def test_wrong_numbers_are_one_line(
    tiny: Tiny, capsys: pytest.CaptureFixture[str], words: list[str], line: str
):
    assert cli.main(["plan", str(tiny.config), *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {line}")
    assert error.count("\n") == 1


def test_what_cannot_fit_is_refused(tiny: Tiny, capsys: pytest.CaptureFixture[str]):
    words = ["plan", str(tiny.config), "--devices", "2", "--memory", "0.001"]
    few = "training.micro_batch_tokens=40"
    assert cli.main([*words, few]) == 2
    said = capsys.readouterr()
    assert "on each device, in " in said.err
    assert "does not fit the 0.0 GiB of a device: " in said.err
    assert said.err.count("\n") == 1
    assert "peak" in said.out, "the plan is printed all the same"


def test_advice_for_several_devices(plan: Planner):
    def advice(made: RunPlan, **changes: Any) -> str:
        heavy = {name: dataclasses.replace(r, weights=2**40) for name, r in made.roles.items()}
        devices = dataclasses.replace(made.devices, **changes)
        small = dataclasses.replace(made, roles=heavy, devices=devices)
        return next(line for line in plan_lines(small) if line.startswith("peak"))

    assert advice(plan(2), kind="cuda").endswith("of a device: set training.sharding=full")
    assert advice(plan(2, FULL), kind="cuda").endswith("of a device: take more devices than 2")
    shared = advice(plan(2), kind="cpu")
    assert shared.endswith("that 2 processes share: start fewer processes on this host")


def test_advice_where_a_phase_is_too_much(plan: Planner):
    def advice(made: RunPlan, phase: str, memory: int, **parts: int) -> str:
        sizes = {name.replace("_", " "): size for name, size in parts.items()}
        phases = {**made.phases, phase: Phase(sum(parts.values()), sizes)}
        devices = dataclasses.replace(made.devices, kind="cuda", memory=memory)
        big = dataclasses.replace(made, phases=phases, devices=devices)
        return next(line for line in plan_lines(big) if line.startswith("peak"))

    size = 2**40
    assert advice(plan(2), "sum", size, message=size).endswith("set training.sharding=full")
    whole = {"whole_policy": size, "KV_cache": size}
    for memory, rollout, evaluation in (
        (size, "sample on servers (rollout.engine=vllm), or ", "set evaluation.prompts=null and "),
        (2 * size, "lower rollout.max_rows", "lower rollout.max_rows"),
    ):
        assert rollout in advice(plan(2, FULL), "rollout", memory, **whole)
        assert evaluation in advice(plan(2, FULL), "evaluation", memory, **whole)
    static = advice(plan(2, FULL, "rollout.cache=static"), "update", size, **whole)
    assert static.endswith("set rollout.cache=dynamic")


def test_time_is_the_busiest_device_and_waiting(plan: Planner, tiny: Tiny, tmp_path: Path):
    words = "method: uniapl\noutput_dir: x\ndata: {demonstrations: d, prompts: p}\ntraining: {steps: 2}\n"
    (tmp_path / "config.yaml").write_text(words + f"model: {{path: {tiny.model}}}\n")
    row = {
        "step": 1,
        "data/sampled_tokens": 100,
        "data/trained_tokens": 50,
        "time/rollout_seconds": 1.0,
        "time/update_seconds": 2.0,
        "time/discriminator_seconds": 3.0,
    }
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    made = plan(2)
    made = dataclasses.replace(made, devices=dataclasses.replace(made.devices, bandwidth=1e-6))
    busiest, sent = made.busiest, 2 * 4 * WEIGHTS
    seconds = busiest.sampled / 100 + busiest.trained / 25 + busiest.judged * 3 / 50 + sent / 1e3
    line = plan_lines(made, tmp_path)[-1]
    assert f"{seconds:.3g} seconds a step, {3600 / seconds:.3g} steps an hour" in line
