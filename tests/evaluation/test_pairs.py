"""`uniapl evaluate --pairs`: reward models and the discriminators of runs on labelled pairs."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import save_tiny_reward_model, tiny_reward_model, tiny_tokenizer
from tiny_runs import Tiny

from uniapl import cli
from uniapl.config import load_config
from uniapl.config.strict_yaml import dump_yaml, load_yaml
from uniapl.data.chat import Chat
from uniapl.errors import InputError, TrainingError
from uniapl.evaluation.pairs import evaluate_pairs
from uniapl.models.language_model import load_language_model
from uniapl.models.packing import TokenSequence, pack
from uniapl.models.scalar_model import ScalarModel

USER = {"role": "user", "content": "p Write"}
ROWS: list[dict[str, Any]] = [
    {"subset": "x/a", "input": "p1", "output_1": "a b", "output_2": "c, d, e", "label": 2},
    {"subset": "x/a", "input": "p1 Write", "output_1": "a", "output_2": "b", "label": 1},
    {"subset": "b", "prompt": "q", "chosen": "dd dd", "rejected": "a, a"},
    {"prompt": [USER], "chosen": "e", "rejected": "a b c d e"},
]


def texts(row: dict[str, Any]) -> tuple[Any, str, str]:
    if "chosen" in row:
        return row["prompt"], row["chosen"], row["rejected"]
    better, worse = row["label"], 3 - row["label"]
    return row["input"], row[f"output_{better}"], row[f"output_{worse}"]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


def read(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    rows = (folder / "samples.jsonl").read_text().splitlines()
    return json.loads((folder / "results.json").read_text()), [json.loads(row) for row in rows]


def scores(folder: Path) -> list[float]:
    rows = read(folder)[1]
    return [row[f"{name}_score"] for row in rows for name in ("chosen", "rejected")]


def test_a_reward_model(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_tiny_reward_model(tmp_path / "rm", seed=1)
    assert cli.main(["evaluate", "rm", "--pairs", str(pairs)]) == 0
    tokenizer, model = tiny_tokenizer(), tiny_reward_model(seed=1)
    expected, right = [], []
    for row in ROWS:
        prompt, *completions = texts(row)
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        for completion in completions:
            answer = {"role": "assistant", "content": completion}
            text = tokenizer.apply_chat_template([*turns, answer], tokenize=False)
            ids = tokenizer.encode(text, add_special_tokens=False)
            expected.append(model(torch.tensor([ids])).logits.item())
        right.append(float(expected[-2] > expected[-1]))
    assert 0 < sum(right) < 4
    folder = tmp_path / "evaluations" / "pairs"
    results, rows = read(folder)
    assert scores(folder) == pytest.approx(expected, abs=1e-5)
    assert [row["correct"] for row in rows] == right
    assert [row["subset"] for row in rows] == ["x/a", "x/a", "b", None]
    assert rows[0]["prompt"] == "p1"
    assert (rows[0]["chosen"], rows[0]["rejected"]) == ("c, d, e", "a b")
    mean = sum(right) / 4
    error = math.sqrt(sum((r - mean) ** 2 for r in right) / 3 / 4)
    assert results["pairs_accuracy"] == mean
    assert results["pairs_accuracy_stderr"] == pytest.approx(error)
    assert results["n"] == 4
    margins = [
        chosen - rejected for chosen, rejected in zip(expected[::2], expected[1::2], strict=True)
    ]
    assert results["margin_mean"] == pytest.approx(sum(margins) / 4, abs=1e-5)
    assert results["by_subset"]["x/a"]["pairs_accuracy"] == (right[0] + right[1]) / 2
    assert results["by_subset"]["b"] == {
        "pairs_accuracy": right[2],
        "pairs_accuracy_stderr": None,
        "n": 1,
    }
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"pairs_accuracy {mean:.4f} ± {error:.4f}  n 4"
    assert lines[2].split() == ["b", f"{right[2]:.4f}", "n", "1"]


def test_a_limit_takes_the_first_pairs(pairs: Path, tmp_path: Path) -> None:
    model = save_tiny_reward_model(tmp_path / "model")
    done = evaluate_pairs(model, pairs, tmp_path / "out", limit=2)
    assert done.results["n"] == 2
    assert done.results["settings"]["limit"] == 2
    with pytest.raises(InputError, match="--limit must be at least 1"):
        evaluate_pairs(model, pairs, tmp_path / "none", limit=0)


def test_ties_count_half(pairs: Path, tmp_path: Path) -> None:
    model = tiny_reward_model()
    torch.nn.init.zeros_(model.score.weight)
    model.save_pretrained(tmp_path / "rm")
    tiny_tokenizer().save_pretrained(tmp_path / "rm")
    results = evaluate_pairs(tmp_path / "rm", pairs, tmp_path / "out").results
    assert results["pairs_accuracy"] == 0.5
    assert results["pairs_accuracy_stderr"] == 0.0


def test_a_score_that_is_no_number_is_a_failure(pairs: Path, tmp_path: Path) -> None:
    model = tiny_reward_model()
    torch.nn.init.constant_(model.score.weight, math.nan)
    model.save_pretrained(tmp_path / "rm")
    tiny_tokenizer().save_pretrained(tmp_path / "rm")
    with pytest.raises(TrainingError, match="the scores of pair 1 are nan and nan"):
        evaluate_pairs(tmp_path / "rm", pairs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def runs(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run per form, with a system prompt, an argument of the template, and a temperature."""
    folder = tmp_path_factory.mktemp("runs")
    model = Path(shutil.copytree(tiny.model, folder / "model"))
    template = (model / "chat_template.jinja").read_text()
    thinks = "<|assistant|>{% if thinks is defined and thinks %}!{% endif %}"
    (model / "chat_template.jinja").write_text(template.replace("<|assistant|>", thinks))
    words = (
        *(f"model.path={model}", "data.template_arguments={thinks: true}"),
        *("training.steps=2", "discriminator.learning_rate=1e-2", "evaluation.prompts=null"),
        *("data.system_prompt=Be calm", "rollout.temperature=0.7"),
    )
    return {
        form: tiny.train(folder / form, *words, f"discriminator.form={form}")
        for form in ("scalar", "likelihood")
    }


@pytest.mark.parametrize("form", ["scalar", "likelihood"])
def test_a_run_is_scored_by_its_discriminator(
    runs: dict[str, Path], pairs: Path, tmp_path: Path, form: str
) -> None:
    """The numbers are those of the discriminator in the last checkpoint, on the run's own token ids."""
    run = runs[form]
    evaluate_pairs(run, pairs, tmp_path / "out")
    state = torch.load(run / "checkpoints/step_000002/state.pt", weights_only=True)
    policy, tokenizer = load_language_model(str(run / "policy"), torch.float32, torch.device("cpu"))
    chat = Chat(tokenizer, system_prompt="Be calm", template_arguments={"thinks": True})
    assert tokenizer.decode(chat.encode_prompt("p")).endswith("<|assistant|>!")
    model = policy.trainable_copy()
    discriminator = ScalarModel(model) if form == "scalar" else model
    # tied weights have one name there
    found = discriminator.load_state_dict(state["discriminator"]["model"], strict=False)
    assert not found.unexpected_keys
    assert [name.rpartition("lm_head.")[2] for name in found.missing_keys] == ["weight"]
    expected = []
    for row in ROWS:
        prompt, *completions = texts(row)
        for completion in completions:
            ids = chat.encode_prompt(prompt), chat.encode_completion(completion)
            (packed,) = pack([TokenSequence(*ids)], 1000)
            if isinstance(discriminator, ScalarModel):
                expected.append(discriminator.logits(packed).item())
            else:
                ratio = discriminator.logprobs(packed, 0.7) - policy.logprobs(packed, 0.7)
                expected.append(ratio.mean().item())
    assert max(expected) - min(expected) > 0.01
    assert scores(tmp_path / "out") == pytest.approx(expected, abs=1e-4)


def test_results_go_into_the_run(runs: dict[str, Path], pairs: Path) -> None:
    done = evaluate_pairs(runs["scalar"], pairs)
    assert done.folder == runs["scalar"] / "evaluations" / "pairs"
    assert load_config(runs["scalar"] / "config.yaml").discriminator.form == "scalar"


def test_what_cannot_be_scored(pairs: Path, tmp_path: Path, runs: dict[str, Path]) -> None:
    model = save_tiny_reward_model(tmp_path / "rm", max_position_embeddings=19)
    with pytest.raises(InputError) as caught:
        evaluate_pairs(model, pairs, tmp_path / "out")
    assert str(caught.value) == (
        f"{pairs}: pair 4: prompt and completion have 20 tokens; "
        "the model reads at most 19, and nothing is cut"
    )
    with pytest.raises(InputError, match=r"policy.* is no reward model"):
        evaluate_pairs(runs["scalar"] / "policy", pairs, tmp_path / "out")
    (tmp_path / "run").mkdir()
    config = (runs["scalar"] / "config.yaml").read_text()
    (tmp_path / "run" / "config.yaml").write_text(config)
    with pytest.raises(InputError, match="has no discriminator/: its method has none, or"):
        evaluate_pairs(tmp_path / "run", pairs)
    settings = load_yaml(config, "the config")
    settings["discriminator"] = {"form": "reference", "path": "x"}
    settings["constraint"] = {}
    (tmp_path / "run" / "config.yaml").write_text(dump_yaml(settings))
    with pytest.raises(InputError, match="form reference, which reads the expert's completion"):
        evaluate_pairs(tmp_path / "run", pairs)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--pairs", "p"], "--pairs needs a model"),
        (["m"], "one of the arguments --benchmark --pairs is required"),
        (["m", "--pairs", "p", "--benchmark", "custom"], "not allowed with argument"),
        (["m", "--pairs", "p", "--temperature", "0"], "--temperature has no effect with --pairs"),
        (["m", "--pairs", "p", "--no-thinking"], "--no-thinking has no effect with --pairs"),
        (["m", "--pairs", "p", "--partial"], "--partial has no effect with --pairs"),
    ],
)
def test_options_that_cannot_be_meant(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["evaluate", *words]) == 2
    assert message in capsys.readouterr().err
