import dataclasses
import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from tiny import tiny_tokenizer, write_task
from tiny_runs import CONFIG, Tiny
from transformers import Qwen3Config, Qwen3ForCausalLM

from benchmarks import memory
from uniapl.errors import InputError
from uniapl.planning.plan import RunPlan, plan_run
from uniapl.planning.text import plan_lines

WEIGHTS = 264 * 32 + 2 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64 + 2 * 8 + 2 * 32) + 32
"""Of the tiny model: tied embeddings, two layers, the last norm."""
ADAPTER = 2 * 4 * ((32 + 32) * 2 + (32 + 16) * 2 + (32 + 64) * 3)
"""At rank 4: r (in + out) per linear layer."""


Planner = Callable[..., RunPlan]


@pytest.fixture(scope="module")
def plan(tiny: Tiny) -> Planner:
    """Plans a run the first time it is asked for."""
    return cache(lambda *words: plan_run(tiny.load(Path("unused"), *words)))


def test_weights_of_all_roles(plan: Planner) -> None:
    full = plan("objective.kl_coef=0.1")
    assert {name: (r.weights, r.trained, r.optimizer) for name, r in full.roles.items()} == {
        "policy": (4 * WEIGHTS, 4 * WEIGHTS, 8 * WEIGHTS),
        "reference": (4 * WEIGHTS, 0, 0),
        "discriminator": (4 * WEIGHTS, 4 * WEIGHTS, 8 * WEIGHTS),
    }
    assert full.resident == 28 * WEIGHTS
    words = ("model.tuning=lora", "discriminator.backbone=lora", "lora.rank=4")
    shared = plan(*words, "objective.kl_coef=0.1")
    assert {name: (r.weights, r.trained) for name, r in shared.roles.items()} == {
        "policy": (4 * (WEIGHTS + ADAPTER), 4 * ADAPTER),
        "reference": (0, 0),
        "discriminator": (4 * ADAPTER, 4 * ADAPTER),
    }
    half = plan(*words, "model.dtype=bfloat16", "discriminator.form=scalar")
    assert half.roles["policy"].weights == 2 * WEIGHTS + 4 * ADAPTER
    assert half.roles["discriminator"].weights == 4 * (ADAPTER + 32)


def test_one_copy_is_reference_and_backbone_of_a_full_policy(plan: Planner) -> None:
    words = ("discriminator.backbone=lora", "lora.rank=4", "objective.kl_coef=0.1")
    roles = plan(*words).roles
    weights = {name: role.weights for name, role in roles.items()}
    assert weights == {
        "policy": 4 * WEIGHTS,
        "reference": 4 * WEIGHTS,
        "discriminator": 4 * ADAPTER,
    }


def test_cache_and_tokens_by_hand(plan: Planner) -> None:
    made = plan()
    # 16 rollouts; the prompt's turns around "d0 Write now now" and the like, at most 12 new tokens
    tokenizer = tiny_tokenizer()

    def length(text: str) -> int:
        turns = [{"role": "user", "content": text}]
        rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return len(tokenizer.encode(rendered, add_special_tokens=False))

    assert made.tokens.sampled == 16 * 12
    per_token = 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, width, bytes
    cache = made.phases["rollout"].parts["KV cache"]
    assert 16 * (length("p0 Write") + 12) * per_token <= cache
    longest = length("p11 Write now now")
    assert cache <= 16 * (longest + 12 + 256) * per_token
    # rollouts of 12 tokens and four demonstrations with 6 to 12 tokens; a shared prompt counts once
    shortest = 16 * 12 + 4 * length("d0 Write") + 4 * 6
    assert shortest < made.tokens.trained < 16 * 12 + 6 * (longest + 12)
    # p_φ reads the same and two held-out demonstrations, in forwards of their own that share fewer prompts
    assert made.tokens.trained < made.tokens.judged < made.tokens.trained + 4 * (longest + 12)


def test_knobs_lower_what_they_say(plan: Planner) -> None:
    peaks = {
        words: plan(*words.split()).phases["update"].needed
        for words in (
            "seed=0",
            "training.gradient_checkpointing=true",
            "training.micro_batch_tokens=60",
        )
    }
    assert peaks["training.gradient_checkpointing=true"] < 0.8 * peaks["seed=0"]
    assert peaks["training.micro_batch_tokens=60"] < 0.8 * peaks["seed=0"]
    rollouts = [plan(f"rollout.max_rows={n}").phases["rollout"].parts["KV cache"] for n in (16, 4)]
    assert rollouts[0] == pytest.approx(4 * rollouts[1], rel=0.1)


def test_gradients_are_there_beside_the_second_micro_batch(plan: Planner) -> None:
    words = ("method=sft", "training.micro_batch_tokens=1")  # one demonstration each
    one, four = (plan(*words, f"data.demonstrations_per_step={n}").phases["update"] for n in (1, 4))
    assert one.parts["gradients"] == four.parts["gradients"] == 4 * WEIGHTS
    assert four.needed - one.needed > 0.5 * 4 * WEIGHTS


def test_no_weights_are_needed(plan: Planner, tiny: Tiny, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny.model, tmp_path / "model"))
    (model / "model.safetensors").unlink()
    assert plan(f"model.path={model}") == dataclasses.replace(
        plan(), config=plan(f"model.path={model}").config
    )
    with pytest.raises(InputError, match=r"model\.path: cannot load '.*nowhere'"):
        plan(f"model.path={tmp_path / 'nowhere'}")


@pytest.mark.parametrize("method", ["sft", "grpo", "a-sft", "gad"])
def test_methods_have_the_phases_that_they_have(plan: Planner, method: str) -> None:
    made = plan(f"method={method}")
    has_rollouts, judges = method != "sft", method in ("a-sft", "gad")
    assert ("rollout" in made.phases, "judge" in made.phases) == (has_rollouts, judges)
    assert (made.tokens.sampled > 0, made.tokens.judged > 0) == (has_rollouts, judges)


def test_the_text_says_what_to_do_where_it_does_not_fit(plan: Planner) -> None:
    made = plan()
    text = "\n".join(plan_lines(made))
    assert f"peak {made.peak / 2**30:.2f} GiB, in {made.worst_phase}: fits" in text
    assert made.peak == made.tensors + made.heap
    assert made.heap == (int(0.15 * made.tensors) if made.devices.kind == "cpu" else 0)

    tight = dataclasses.replace(made.devices, memory=1)

    def advice(**changes: object) -> str:
        small = dataclasses.replace(made, devices=tight, **changes)  # type: ignore[arg-type]
        return next(line for line in plan_lines(small) if line.startswith("peak"))

    assert advice().endswith("0.0 GiB of the device: set training.gradient_checkpointing=true")
    recomputing = plan("training.gradient_checkpointing=true").config
    assert advice(config=recomputing).endswith("lower training.micro_batch_tokens (16384)")
    phases = {"rollout": made.phases["update"], "update": made.phases["rollout"]}
    assert advice(phases=phases).endswith("lower rollout.max_rows (256)")
    heavy = {name: dataclasses.replace(r, weights=2**30) for name, r in made.roles.items()}
    assert advice(roles=heavy).endswith("set model.tuning=lora")


def test_time_is_that_of_a_measured_run(plan: Planner, tiny: Tiny, tmp_path: Path) -> None:
    made = plan()
    run = tmp_path / "run"
    run.mkdir()
    words = "method: uniapl\noutput_dir: x\ndata: {demonstrations: d, prompts: p}\ntraining: {steps: 2}\n"
    (run / "config.yaml").write_text(words + f"model: {{path: {tiny.model}}}\n")
    with pytest.raises(InputError, match="has no steps yet"):
        plan_lines(made, run)
    rows = [
        {
            "step": step,
            "data/sampled_tokens": 100 * step,
            "data/trained_tokens": 50 * step,
            "time/rollout_seconds": 1.0,
            "time/update_seconds": 2.0,
            "time/discriminator_seconds": 3.0,
        }
        for step in (1, 2)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokens = made.tokens
    seconds = tokens.sampled * 0.01 + tokens.trained * 0.04 + tokens.judged * 0.06
    line = plan_lines(made, run)[-1]
    assert f"time: at most {seconds * 4 / 60:.2g} minutes, {seconds:.3g} seconds a step" in line
    long = dataclasses.replace(made, config=plan("training.steps=40000").config)
    assert f"time: at most {seconds * 40000 / 3600:.2g} hours" in plan_lines(long, run)[-1]
    with pytest.raises(InputError, match=r"--measured: .* has model\.tuning full, the config lora"):
        plan_lines(plan("model.tuning=lora"), run)
    with pytest.raises(InputError, match="is not a run folder"):
        plan_lines(made, tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        ("method=mix",),
        ("method=uniapl", "model.dtype=bfloat16"),
        ("method=uniapl", "model.tuning=lora", "discriminator.backbone=lora", "lora.rank=64"),
        ("method=uniapl", "discriminator.form=scalar", "training.evaluate_every=1"),
    ],
)
def test_disk_is_that_of_a_run(plan: Planner, tiny: Tiny, tmp_path: Path, words: tuple[str, ...]):
    words = (*words, "training.checkpoint_every=1", "training.keep_checkpoints=1")
    made = plan(*words)
    run = tiny.train(tmp_path / "run", *words)

    def size(*folders: Path) -> int:
        files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
        return sum(f.stat().st_size for f in files if f.suffix in (".safetensors", ".pt", ".bin"))

    (newest,) = run.glob("checkpoints/step_000004")
    assert made.checkpoint == pytest.approx(size(newest), rel=0.1)
    assert made.results == pytest.approx(
        size(*(run / name for name in ("policy", "adapter", "discriminator"))), rel=0.1
    )
    assert made.num_checkpoints == 3
    assert made.disk >= size(run / "checkpoints") + made.results * 0.9


def test_the_number_of_checkpoints_is_that_of_those_there_at_once(plan: Planner):
    def at_once(*words: str) -> int:
        return plan("training.steps=8", *words).num_checkpoints

    assert at_once("training.checkpoint_every=0") == 1
    assert at_once("training.checkpoint_every=4", "training.keep_checkpoints=5") == 3
    assert at_once("training.checkpoint_every=1", "training.keep_checkpoints=2") == 4
    assert at_once("training.checkpoint_every=1", "evaluation.prompts=null") == 3


def test_disk_says_what_to_do_where_it_does_not_fit(plan: Planner, tmp_path: Path):
    made = plan("method=mix")
    (line,) = [line for line in plan_lines(made) if line.startswith("disk")]
    assert "fits the " in line
    assert "does not" not in line
    huge = dataclasses.replace(made, num_weights=2**60)
    (line,) = [line for line in plan_lines(huge) if line.startswith("disk")]
    assert line.endswith(": lower training.keep_checkpoints (2)")


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["method=mix"],
        pytest.param(["model.tuning=lora", "discriminator.backbone=lora"], marks=pytest.mark.long),
    ],
)
def test_the_measured_peak_is_as_planned(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model of 47M weights, so that what is no tensor (60 to 80 MB) weighs little."""
    torch.manual_seed(0)
    shape = Qwen3Config(
        vocab_size=49152,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=64,
        intermediate_size=1024,
        max_position_embeddings=512,
        eos_token_id=4,
        pad_token_id=0,
        bos_token_id=None,
    )
    Qwen3ForCausalLM(shape).save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    config = tmp_path / "large.yaml"
    config.write_text(CONFIG.format(model=tmp_path / "model", **write_task(tmp_path / "task")))
    settings = [
        f"output_dir={tmp_path / 'run'}",
        "training.steps=2",
        "training.checkpoint_every=0",
        "evaluation.prompts=null",  # its answers need less than an update
        "rollout.max_completion_tokens=48",
    ]
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    found = memory.compare(str(config), [*settings, *words])
    assert found["ratio"] == pytest.approx(1.0, abs=0.15)
