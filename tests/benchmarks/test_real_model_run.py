"""`benchmarks/real_model.sh` from seeds to table, on a tiny model: in slices, with every column of the table."""

import json
import random
from pathlib import Path

import pytest
from tiny import save_tiny_model

import benchmarks
import uniapl
from benchmarks import real_model
from uniapl.instructions.phrasings import HELD_OUT_TYPES

SMALL = (
    *("training.steps=2", "training.micro_batch_tokens=1024", "training.checkpoint_every=0"),
    *(
        "data.prompts_per_step=2",
        "data.demonstration_prompts_per_step=1",
        "data.demonstrations_per_step=2",
    ),
    *("data.held_out_demonstrations=2", "discriminator.warmup_steps=0", "optimizer.warmup_steps=0"),
    *("rollout.group_size=2", "rollout.max_completion_tokens=8", "constraint.prompts_per_step=2"),
    *("data.max_prompt_tokens=400", "optimizer.learning_rate=1e-2"),
)


def write_inputs(folder: Path) -> list[str]:
    """Write a model, seeds and a benchmark; return the options that name them."""
    draw = random.Random(0)
    seeds = sorted({f"{draw.choice('dpt')}{n} Write now." for n in range(150)})
    (folder / "seeds.txt").write_text("\n".join(seeds) + "\n")
    rows = [
        {
            "key": n,
            "prompt": f"p{n} Write. Use no comma.",
            "instruction_id_list": [
                "punctuation:no_comma",
                *([HELD_OUT_TYPES[2]] if n % 2 else []),
            ],
            "kwargs": [{}, *([{"num_placeholders": 1}] if n % 2 else [])],
        }
        for n in range(6)
    ]
    (folder / "ifeval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = save_tiny_model(folder / "model", trained=True)
    return [
        f"--model={model}",
        f"--seeds={folder / 'seeds.txt'}",
        f"--ifeval={folder / 'ifeval.jsonl'}",
    ]


@pytest.mark.long
def test_from_seeds_to_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    roots = (str(Path(module.__file__ or "").parents[1]) for module in (benchmarks, uniapl))
    monkeypatch.setenv("PYTHONPATH", ":".join(roots))
    words = [
        *write_inputs(tmp_path),
        *(f"--output={tmp_path / 'out'}", "--methods=grpo,uniapl", "--untuned", "--more-seeds="),
        *("--asked=60", "--matched=4", "--samples=2", "--tokens=12", "--form=expert"),
        *SMALL,
    ]
    assert real_model.main([*words, "--minutes=1e-9"]) == 75
    assert real_model.main([*words, "--minutes=60"]) == 0, capsys.readouterr()
    printed = capsys.readouterr().out
    asked = (tmp_path / "out" / "data" / "prompts.jsonl").read_text()
    assert not any(name in asked for name in HELD_OUT_TYPES)
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    assert table["arms"]["uniapl"]["setting"] == [
        "discriminator.form=expert",
        "discriminator.hint=true",
    ]
    for arm in table["arms"].values():
        metrics = arm["metrics"]
        strict, hacks = metrics["prompt_level_strict_acc"], metrics["hack_fraction"]
        answered = metrics["answered_strict_acc"]["mean"]
        assert answered == pytest.approx(strict["mean"] - hacks["mean"])
        assert {"held_out_types_acc", "trained_types_acc", "few_words_fraction"} <= set(metrics)
        assert metrics["text_fraction"]["low"] is not None
    before = table["before"]
    assert before["answered_strict_acc"] == pytest.approx(
        before["prompt_level_strict_acc"] - before["hack_fraction"]
    )
    # demonstrations teach in any step, rewards only where a group's differ
    after = table["arms"]["uniapl"]["metrics"]["expert_nll"]["mean"]
    assert after != pytest.approx(before["expert_nll"], abs=1e-3)
    assert table["differences"]["grpo"]["seeds"] == [0]
    assert "uniapl minus each other arm" in printed
    assert "types held out" in printed
    assert printed.endswith("nothing is left\n")
    # nothing is done again
    assert real_model.main([*words, "--minutes=1e-9"]) == 0
