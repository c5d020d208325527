"""`uniapl chat`, without a terminal: lines in, answers out."""

import io
import json
from pathlib import Path

import pytest
import torch
from tiny import TEMPLATE, save_tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM

from uniapl import cli
from uniapl.evaluation.conversation import Conversation, load_conversations

RUN = """\
output_dir: {run}
method: sft
model: {{path: {model}}}
data: {{demonstrations: none.jsonl, system_prompt: Be brief.}}
training: {{steps: 1}}
evaluation: {{temperature: 1.0}}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder whose policy differs from what it started from, as training leaves one."""
    folder = tmp_path_factory.mktemp("chat")
    base, run = save_tiny_model(folder / "base"), folder / "run"
    save_tiny_model(run / "policy", trained=True)
    (run / "config.yaml").write_text(RUN.format(run=run, model=base))
    return run


def say(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lines: str, *words: str
) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    status = cli.main(["chat", *words])
    return status, *capsys.readouterr()


def shown(conversation: Conversation, text: str) -> list[str]:
    pieces: list[str] = []
    conversation.reply(text, pieces.append)
    return pieces


def test_the_conversation_is_kept_as_the_template_writes_it(run: Path):
    talk = load_conversations(run, {"temperature": 0.0, "max_completion_tokens": 6})[
        "after training"
    ]
    first = "".join(shown(talk, "d1 Write"))
    second = "".join(shown(talk, "d2 Write"))
    tokenizer = tiny_tokenizer()
    model = AutoModelForCausalLM.from_pretrained(run / "policy")
    said = "<|system|>Be brief.<|end|><|user|>d1 Write<|end|><|assistant|>"
    for answer, more in (
        (first, f"{first}<|end|><|user|>d2 Write<|end|><|assistant|>"),
        (second, ""),
    ):
        ids = tokenizer(said, return_tensors="pt", add_special_tokens=False).input_ids
        for _ in range(6):
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
            if ids[0, -1] == 4:
                break
        assert tokenizer.decode(ids[0]).removeprefix(said).removesuffix("<|end|>") == answer
        said += more
    talk.reset()
    assert "".join(shown(talk, "d1 Write")) == first


def test_text_streams_while_the_model_writes(run: Path):
    talk = load_conversations(run, {"temperature": 1.0, "max_completion_tokens": 40})
    pieces = [piece for n in range(4) for piece in shown(talk["after training"], f"d{n} Write")]
    assert len(pieces) > 4
    assert "<|end|>" not in "".join(pieces)


def test_the_model_before_training_answers_beside(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    words = [str(run), "--compare", "--max-tokens", "12", "--temperature", "0"]
    status, out, err = say(monkeypatch, capsys, "d1 Write\n\n/reset\nd1 Write\n", *words)
    assert status == 0
    assert err.count("begun again") == 1
    parts = out.split("[after training]\n")[1:]
    assert len(parts) == 2
    assert parts[0] == parts[1]
    after, before = parts[0].split("[before training]\n")
    assert after.strip()
    assert after != before


def test_draws_repeat_with_the_seed_and_the_temperature_is_the_runs(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    words = [str(run), "--max-tokens", "20"]
    lines = "d1 Write\n/reset\nd1 Write\n"
    status, out, err = say(monkeypatch, capsys, lines, *words)
    assert status == 0
    assert "at temperature 1\n" in err
    first, second = out[: len(out) // 2], out[len(out) // 2 :]
    assert first != second  # draws go on
    assert say(monkeypatch, capsys, lines, *words)[1] == out
    assert say(monkeypatch, capsys, lines, *words, "--seed", "5")[1] != out


def test_a_full_context_is_one_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    status, _, err = say(monkeypatch, capsys, "a" * 600 + "\n", str(run))
    assert status == 2
    assert "tokens and the model's context 512; /reset begins again" in err


def test_a_model_folder_is_greedy_and_has_nothing_to_compare_with(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    policy = str(run / "policy")
    assert "temperature 0" in say(monkeypatch, capsys, "", policy)[2]
    status, _, err = say(monkeypatch, capsys, "", policy, "--compare")
    assert status == 2
    assert "--compare needs a run folder" in err
    status, _, err = say(monkeypatch, capsys, "", policy, "--max-tokens", "0")
    assert status == 2
    assert "--max-tokens must be at least 1" in err


def test_without_a_template_each_line_is_continued_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    model = save_tiny_model(tmp_path / "plain")
    (model / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((model / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    words = [str(model), "--max-tokens", "5"]
    status, out, err = say(monkeypatch, capsys, "the sea\nthe sea\n", *words)
    assert status == 0
    assert "no chat template" in err
    assert out[: len(out) // 2] == out[len(out) // 2 :]


def test_thoughts_are_shown_and_not_kept(run: Path, tmp_path: Path):
    model = save_tiny_model(tmp_path / "thinks", trained=True)
    opening = "<|assistant|><think>"
    template = TEMPLATE.replace("<|assistant|>{% endif %}", opening + "{% endif %}")
    (model / "chat_template.jinja").write_text(template)
    talk = load_conversations(model, {"max_completion_tokens": 8})["model"]
    assert "".join(shown(talk, "d1 Write"))
    assert talk.turns[-1] == {"role": "assistant", "content": ""}  # it never left its thoughts
