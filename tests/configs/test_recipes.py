"""The recipes load as they are, and train where a tiny random model of their architecture stands in."""

import json
from pathlib import Path

import pytest
from tiny import TEMPLATE, save_tiny_reward_model, tiny_model, tiny_tokenizer, write_task
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from uniapl.config import load_config, packaged_configs
from uniapl.runs import train

RECIPES = {"qwen3-0.6b": "qwen3", "qwen3-4b": "qwen3", "smollm2-135m": "llama"}
THINKING = "{% if enable_thinking is false %}<pad>{% endif %}"
SMALLER = (
    "model.dtype=float32",
    "training.steps=2",
    "training.device=cpu",
    "data.demonstrations_per_step=4",
    "data.prompts_per_step=4",
    "data.demonstration_prompts_per_step=2",
    "data.held_out_demonstrations=0",
    "rollout.max_completion_tokens=8",
    "evaluation.max_completion_tokens=8",
    "evaluation.limit=4",
)


def tiny_llama() -> PreTrainedModel:
    """In the proportions of SmolLM2: tied embeddings, three heads of queries for one of keys."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=264,
            hidden_size=36,
            num_hidden_layers=2,
            num_attention_heads=9,
            num_key_value_heads=3,
            head_dim=4,
            intermediate_size=64,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            eos_token_id=4,
            pad_token_id=0,
            bos_token_id=None,
        )
    )


def test_every_packaged_config_is_a_recipe_or_the_miniature() -> None:
    assert packaged_configs().keys() == {*RECIPES, "miniature"}


PAPER = [
    ("qwen3-0.6b", "expert"),
    ("qwen3-0.6b", "reference"),
    ("qwen3-4b", "expert"),
    ("qwen3-4b", "reference"),
]


@pytest.mark.parametrize(("recipe", "form"), [*((recipe, "") for recipe in RECIPES), *PAPER])
def test_a_recipe_trains(recipe: str, form: str, tmp_path: Path) -> None:
    """As shipped, and with the alternatives that the Qwen3 recipes name."""
    as_shipped = load_config(recipe)
    assert as_shipped.output_dir == f"runs/{recipe}"
    model, tokenizer = tmp_path / "model", tiny_tokenizer()
    if as_shipped.data.template_arguments:
        tokenizer.chat_template = TEMPLATE + THINKING
    (tiny_llama() if RECIPES[recipe] == "llama" else tiny_model()).save_pretrained(model)
    tokenizer.save_pretrained(model)
    task = write_task(tmp_path / "task")
    config = load_config(
        recipe,
        [
            f"model.path={model}",
            f"output_dir={tmp_path / 'run'}",
            f"data.demonstrations={task['demonstrations']}",
            f"data.prompts={task['prompts']}",
            f"evaluation.prompts={task['test']}",
            *SMALLER,
            *alternative(form, tmp_path),
        ],
    )
    run = train(config).folder
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    # CHORD's first step has no SFT, and where a random model never ends its turn nothing else counts
    assert all(row["optimizer/moved_fraction"] > 0.1 for row in rows[form == "reference" :])
    assert (run / "policy" / "README.md").exists()
    saved = json.loads((run / "policy" / "config.json").read_text())
    assert saved["model_type"] == RECIPES[recipe]
    if form:
        assert form == "reference" or rows[0]["discriminator/group_std"] > 0
        assert rows[0]["objective/adversarial_weight"] == 0.3  # nothing has to warm up


def alternative(form: str, folder: Path) -> list[str]:
    """The words of a recipe's alternative, a local model in the place of the server."""
    if form == "expert":
        tiny_model(seed=1).save_pretrained(folder / "expert")
        tiny_tokenizer().save_pretrained(folder / "expert")
        return ["discriminator.form=expert", f"discriminator.path={folder / 'expert'}"]
    if form == "reference":
        scorer = save_tiny_reward_model(folder / "scorer")
        words = [
            "method=a-chord",
            "rewards.0.all_or_nothing=1",
            "discriminator.pair_template=polar",
        ]
        return [*words, "discriminator.form=reference", f"discriminator.path={scorer}"]
    return []
