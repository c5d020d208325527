"""Whole runs: every method, what it writes, and what two runs must have in common."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from tiny_runs import Tiny, repeatable, rows
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from uniapl.config import load_config, overridden_keys
from uniapl.config.methods import METHODS
from uniapl.config.schema import Config, MethodName
from uniapl.data.readers import load_prompts
from uniapl.known_metrics import COMPLETION_METRICS, INSTRUCTION_METRICS
from uniapl.rollout import TransformersGenerator
from uniapl.runs import preview, train
from uniapl.runs.metrics import DEFINITIONS
from uniapl.runs.model_card import model_card
from uniapl.runs.setup import load_policy

Runs = Callable[..., Path]


@pytest.fixture(scope="session")
def runs(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Trains a run the first time it is asked for."""
    folder = tmp_path_factory.mktemp("runs")
    done: dict[tuple[str, ...], Path] = {}

    def run(*words: str) -> Path:
        if words not in done:
            done[words] = tiny.train(folder / str(len(done)), *words)
        return done[words]

    return run


def of_method(method: MethodName) -> str:
    return f"method={method}"


# Metrics that a method never has.
NO_ROLLOUTS = (*("reward/", "rollout/", "policy/", "objective/grpo", "objective/adversarial"),)
NO_DISCRIMINATOR = ("discriminator/", "constraint/", "optimizer/discriminator_grad_norm")
WEIGHTS = ("objective/sft_weight", "objective/grpo_weight", "objective/adversarial_weight")
TOKEN_WEIGHTS = tuple(f"objective/{term}_token_weights" for term in ("sft", "grpo", "adversarial"))
"""0 where the term has no weight; null where there are no rollouts."""
GRADIENTS = tuple(
    name for name in DEFINITIONS if re.fullmatch(r"objective/\w+_(grad_norm|cosine)", name)
)
TARGET = ("constraint/distance", "constraint/weight", "constraint/state")
RANKING = ("accuracy", "pair_margin", "held_out_accuracy", "held_out_pair_margin")
COMMON = (
    *(*TARGET, "policy/kl_reference", "discriminator/pairs_accuracy", *GRADIENTS),
    *(
        "objective/pair",
        "rollout/lag_steps",
        "discriminator/score",
    ),
)
"""None is asked for here."""
NOT_RANKED = tuple(f"discriminator/{name}" for name in RANKING)
NOT_A_RATIO = (
    *("discriminator/log_ratio", "discriminator/held_out", "discriminator/margin"),
    "constraint/margin",
)
ABSENT: dict[MethodName, tuple[str, ...]] = {
    "sft": (*NO_ROLLOUTS, *NO_DISCRIMINATOR),
    "grpo": ("objective/sft", "objective/adversarial", *NO_DISCRIMINATOR),
    "sft-grpo": ("objective/adversarial", *NO_DISCRIMINATOR),
    "mix": ("objective/adversarial", *NO_DISCRIMINATOR),
    "mix-both": ("objective/adversarial", *NO_DISCRIMINATOR),
    "chord": ("objective/adversarial", *NO_DISCRIMINATOR),
    "a-sft": ("discriminator/preference_logit", *NOT_RANKED),
    "a-grpo": ("objective/sft", *NOT_RANKED),
    "gad": ("discriminator/preference_logit", *NOT_A_RATIO),
    **dict.fromkeys(("sft-a-grpo", "a-sft-a-grpo", "a-chord", "shaped", "uniapl"), NOT_RANKED),
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_and_what_it_lacks_is_null(runs: Runs, method: MethodName):
    run = runs(of_method(method))
    absent = (*ABSENT[method], *COMMON)
    table = rows(run)
    assert [row["step"] for row in table] == [1, 2, 3, 4]
    # the tiny policy hardly ever repeats itself: whether there is a correlation is chance
    for name in DEFINITIONS.keys() - {"discriminator/repetition_correlation"}:
        is_absent = name.startswith(absent) and name not in WEIGHTS
        if name in TOKEN_WEIGHTS:
            is_absent = method == "sft" and name != "objective/sft_token_weights"
        values = [row[name] for row in table]
        # a scheduled term is absent in some steps only
        assert any(v is not None for v in values) != is_absent, name
    assert (run / "policy" / "model.safetensors").exists()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_moves_the_policy(runs: Runs, tiny: Tiny, method: MethodName):
    trained = AutoModelForCausalLM.from_pretrained(runs(of_method(method)) / "policy")
    start = AutoModelForCausalLM.from_pretrained(tiny.model).state_dict()
    assert any(not torch.equal(value, start[k]) for k, value in trained.state_dict().items())


def test_an_adapter_run_leaves_the_merged_model_and_the_adapter(runs: Runs, tiny: Tiny):
    run = runs("model.tuning=lora", "discriminator.backbone=lora")
    trained = AutoModelForCausalLM.from_pretrained(run / "policy").state_dict()
    start = AutoModelForCausalLM.from_pretrained(tiny.model).state_dict()
    moved = {name for name, value in trained.items() if not torch.equal(value, start[name])}
    # every linear layer, nothing else
    assert moved == {name for name in start if "_proj" in name}
    assert {p.name for p in (run / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    checkpoint = run / "checkpoints" / "step_000004"
    assert not (checkpoint / "policy" / "model.safetensors").exists()
    state = torch.load(checkpoint / "state.pt", weights_only=True)
    assert all("lora_" in name for name in state["discriminator"]["model"])
    assert (checkpoint / "state.pt").stat().st_size < 600_000


def test_metrics_are_exactly_those_defined(runs: Runs):
    run = runs(of_method("uniapl"))
    defined = json.loads((run / "definitions.json").read_text()).keys() - {"method"}
    evaluated = {*INSTRUCTION_METRICS, *COMPLETION_METRICS}
    assert evaluated < defined
    keys = [list(row) for row in rows(run)]
    assert set(keys[0]) == {"step"} | (defined - evaluated)
    assert all(other == keys[0] for other in keys)
    assert {"reward/instructions"} == defined - evaluated - DEFINITIONS.keys()


def test_the_scheduled_methods_switch(runs: Runs):
    weights = [[row[name] for name in WEIGHTS[:2]] for row in rows(runs("method=sft-grpo"))]
    assert weights == [[1, 0], [1, 0], [0, 1], [0, 1]]
    table = rows(runs("method=gad"))
    # one step of warm-up, then a ramp of one step, which ends in λ
    assert [row["objective/sft_weight"] for row in table] == [1, 0, 0, 0]
    assert [row["objective/adversarial_weight"] for row in table] == [0, 1, 1, 1]


def test_weights_hold_for_a_whole_rollout_batch(runs: Runs):
    """The switch at half of six steps falls into a batch of two: it waits for the next one."""
    table = rows(runs("method=sft-grpo", "training.steps=6", "rollout.updates_per_rollout=2"))
    assert [row["objective/grpo_weight"] for row in table] == [0, 0, 0, 0, 1, 1]
    assert [row["objective/sft"] is None for row in table] == [False] * 4 + [True] * 2


def test_the_same_seed_gives_the_same_run_and_another_does_not(runs: Runs, tiny: Tiny, tmp_path):
    first = runs(of_method("uniapl"))
    assert repeatable(tiny.train(tmp_path / "again")) == repeatable(first)
    assert repeatable(tiny.train(tmp_path / "other", "seed=1")) != repeatable(first)


def rollouts(run: Path, step: int = 1) -> list[dict]:
    text = (run / "rollouts" / f"step_{step:06d}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_grpo_and_mix_sample_the_same_rollouts_in_the_first_step(runs: Runs):
    grpo, mix = rollouts(runs("method=grpo")), rollouts(runs("method=mix"))
    assert len(grpo) == 3
    assert grpo == mix
    first = [rows(runs(f"method={m}"))[0] for m in ("grpo", "mix")]
    for name in ("reward/mean", "rollout/completion_tokens_mean", "objective/grpo"):
        assert first[0][name] == first[1][name]
    assert rollouts(runs("method=grpo"), 4) != rollouts(runs("method=mix"), 4)


def test_methods_with_the_same_seed_see_the_same_demonstrations(runs: Runs):
    """In the first step the policies are equal, so the loss on the same demonstrations is."""
    losses = {
        m: rows(runs(f"method={m}"))[0]["objective/sft"] for m in ("sft", "mix", "uniapl", "a-sft")
    }
    assert list(losses.values()) == pytest.approx([losses["sft"]] * 4, rel=1e-6)
    epochs = [[r["data/demonstration_epoch"] for r in rows(runs(f"method={m}"))] for m in losses]
    assert all(other == epochs[0] for other in epochs)


def test_all_methods_roll_out_equally_many_prompts(runs: Runs):
    """4 prompts of 4 rollouts of at most 12 tokens, whatever kind the prompts are of."""
    for method in ("grpo", "mix", "a-sft", "a-grpo", "uniapl", "gad"):
        row = rows(runs(f"method={method}"))[0]
        assert row["data/sampled_tokens"] == 16 * row["rollout/completion_tokens_mean"]


def test_evaluating_does_not_disturb_the_training(runs: Runs):
    often = runs("training.evaluate_every=1", "evaluation.temperature=1.0")
    never = runs("training.evaluate_every=0", "evaluation.prompts=null")
    twice = runs(of_method("uniapl"))
    assert repeatable(often) == repeatable(twice) == repeatable(never)
    assert len(list((often / "evaluations").iterdir())) == 5
    assert not (never / "evaluations").exists()


def test_a_finished_run_holds_what_the_docs_say(runs: Runs):
    run = runs(of_method("uniapl"))
    assert sorted(p.name for p in run.iterdir()) == [
        *(".lock", "checkpoints", "config.yaml", "definitions.json", "discriminator"),
        *("environment.json", "evaluations", "metrics.jsonl", "policy", "rollouts"),
    ]
    assert sorted(p.name for p in (run / "evaluations").iterdir()) == ["step_000000", "step_000004"]
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == [
        *("best.json", "step_000002", "step_000004")
    ]
    for row in rollouts(run):
        assert row["expert_completion"] is None or row["prompt"].startswith("d")
        assert row["finish_reason"] in ("stop", "length")
        assert [i["id"] for i in row["instructions"]] == [
            *("punctuation:no_comma", "length_constraints:number_words")
        ]
        share = sum(i["followed"] for i in row["instructions"]) / 2
        assert row["reward"] == (share if row["finish_reason"] == "stop" else 0)


def test_the_saved_config_runs_the_same_again(runs: Runs, tmp_path: Path):
    saved = runs(of_method("gad")) / "config.yaml"
    again = train(load_config(saved, [f"output_dir={tmp_path / 'again'}"]))
    assert repeatable(again) == repeatable(runs(of_method("gad")))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_plain_transformers_opens_the_policy(runs: Runs, tiny: Tiny, dtype: str):
    run = runs(of_method("uniapl")) if dtype == "float32" else runs("model.dtype=bfloat16")
    folder = run / "policy"
    config = json.loads((folder / "config.json").read_text())
    assert config["dtype"] == dtype
    assert "uniapl" not in (folder / "config.json").read_text()
    assert config["eos_token_id"] == 4
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == getattr(torch, dtype)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(tiny.model).chat_template
    turns = [{"role": "user", "content": "d1 Write"}]
    prompt = tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)
    assert answer.shape[1] > prompt["input_ids"].shape[1]
    assert answer[0, -1] == 4 or answer.shape[1] == prompt["input_ids"].shape[1] + 12


def test_plain_transformers_answers_as_the_run_does(runs: Runs, tiny: Tiny):
    """Same greedy tokens and the same end, one prompt at a time and through a pipeline."""
    folder = runs(of_method("uniapl")) / "policy"
    given = tiny.load(folder, f"model.path={folder}")
    policy, chat = load_policy(given)
    prompts = load_prompts(tiny.task["test"], chat, limit=6)
    generator = TransformersGenerator(
        policy.model,
        chat.tokenizer,
        max_completion_tokens=12,
        eos_token_ids=chat.eos_token_ids,
        temperature=0,
    )
    ours = generator.sample(prompts, 1)
    assert {r.finish_reason for r in ours} >= {"stop"}
    writer = pipeline("text-generation", model=str(folder), device="cpu")
    for prompt, rollout in zip(prompts, ours, strict=True):
        (written,) = writer(
            [dict(turn) for turn in prompt.messages],
            max_new_tokens=12,
            max_length=None,
            do_sample=False,
            return_tensors=True,
        )
        ids = written["generated_token_ids"]
        assert tuple(ids) == (*prompt.token_ids, *rollout.token_ids)


def test_the_card_says_what_the_model_is(runs: Runs, tiny: Tiny):
    run = runs(of_method("uniapl"))
    card = (run / "policy" / "README.md").read_text()
    _, front, text = card.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["uniapl"],
    }
    assert "`model` after 4 steps of the method `uniapl`" in text
    assert "| `sft_weight` | 0.3 |" in text
    assert "| `data.demonstrations` | demonstrations.jsonl | 12 |" in text
    assert "| `evaluation.prompts` | test.jsonl | 6 |" in text
    after = json.loads((run / "evaluations/step_000004/results.json").read_text())
    shown = (
        f"{after['prompt_level_strict_acc']:.3f} ± {after['prompt_level_strict_acc_stderr']:.3f}"
    )
    assert "On 6 prompts" in text
    assert "| | before | after | expert |" in text
    assert shown in next(line for line in text.splitlines() if "`prompt_level_strict_acc`" in line)
    assert f"torch {torch.__version__}" in text
    # nothing of this machine, and a config that can be used
    assert str(tiny.model.parent) not in card
    settings = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert settings["rollout"]["group_size"] == 4
    assert settings["data"]["prompts"] == "prompts.jsonl"


def test_the_card_names_a_base_model_from_the_hub_and_an_unmeasured_run():
    config = Config.model_validate(
        {
            "method": "sft",
            "output_dir": "runs/x",
            "model": {"path": "Qwen/Qwen3-0.6B"},
            "data": {"demonstrations": "data/d.jsonl"},
            "training": {"steps": 3},
        }
    )
    card = model_card(config, {"versions": {"torch": "2"}}, {"data.demonstrations": 7}, {}, ())
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["base_model"] == "Qwen/Qwen3-0.6B"
    assert front["tags"] == ["uniapl", "sft"]
    assert "[Qwen/Qwen3-0.6B](https://huggingface.co/Qwen/Qwen3-0.6B) after 3 steps" in card
    assert "## Metrics\nNone were measured." in card


def test_bfloat16_trains_float32_weights(runs: Runs, tiny: Tiny):
    """Updates below bfloat16's resolution must not be lost between steps."""
    run = runs("model.dtype=bfloat16")
    assert len(rows(run)) == 4
    weights = AutoModelForCausalLM.from_pretrained(run / "checkpoints" / "step_000004" / "policy")
    assert weights.dtype == torch.float32
    changes = [
        (value - start).abs()
        for value, start in zip(
            weights.state_dict().values(),
            AutoModelForCausalLM.from_pretrained(tiny.model).state_dict().values(),
            strict=True,
        )
    ]
    assert max(c.max().item() for c in changes) > 0
    first, reference = rows(run)[0], rows(runs(of_method("uniapl")))[0]
    assert first["objective/sft"] == pytest.approx(reference["objective/sft"], rel=0.02)
    assert first["objective/sft"] != reference["objective/sft"]


def test_fixed_buffers_sample_the_same_rollouts(runs: Runs):
    growing, fixed = runs(of_method("uniapl")), runs(of_method("uniapl"), "rollout.cache=static")
    assert "cache: static" in (fixed / "config.yaml").read_text()
    for one, other in zip(rows(growing)[:2], rows(fixed)[:2], strict=True):
        assert one["reward/mean"] == other["reward/mean"]
        assert one["objective/loss"] == pytest.approx(other["objective/loss"], abs=1e-4)


def test_preview_shows_masks_and_touches_nothing(tiny: Tiny, tmp_path: Path, capsys):
    words = ("method=mix",)
    config = tiny.load(tmp_path / "run", *words)
    preview(config, overridden_keys(words))
    shown = capsys.readouterr().out
    assert "demonstration 0: 11 prompt tokens, 6 completion tokens" in shown
    assert "  <|user|>d0 Write<|end|><|assistant|>" in shown
    assert "+ [a][ ][b][ ][c][<|end|>]" in shown
    assert "preference prompt 1: " in shown
    assert "  <|user|>p1 Write now<|end|><|assistant|>" in shown
    assert not (tmp_path / "run").exists()


def test_a_learning_rate_without_effect_is_said(tiny: Tiny, tmp_path: Path, capsys):
    tiny.train(tmp_path / "run", "training.steps=3", "optimizer.learning_rate=1e-13")
    (line,) = [w for w in capsys.readouterr().err.splitlines() if "moved_fraction" in w]
    assert " WARNING optimizer/moved_fraction 0.0" in line


def test_the_output_says_what_happens(tiny: Tiny, tmp_path: Path, capsys):
    tiny.train(tmp_path / "run", "training.steps=2")
    out, err = capsys.readouterr()
    notes, lines = [line for line in err.splitlines() if " INFO " in line], out.splitlines()
    assert " INFO uniapl, seed 0: " in notes[0]
    assert "moved_fraction" not in err
    assert "10 demonstrations, 12 prompts" in notes[0]  # two are held out
    assert " INFO step 0: prompt_level_strict_acc " in notes[1]
    assert lines[-1] == f"policy: {tmp_path / 'run' / 'policy'}"
    header = next(line for line in lines if "before" in line)
    assert header.split() == ["before", "after", "expert"]
