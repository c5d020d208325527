"""What the chat template is told."""

import json
from pathlib import Path

import pytest
from tiny import TEMPLATE, save_tiny_model, write_task

from uniapl.evaluation import Decoding, evaluate_benchmark


def test_thinking_can_be_switched_off(tmp_path: Path):
    model = save_tiny_model(tmp_path / "model")
    refusing = (
        "{% if enable_thinking is not defined %}{{ raise_exception('asked to think') }}{% endif %}"
    )
    (model / "chat_template.jinja").write_text(
        "{% if add_generation_prompt %}" + refusing + "{% endif %}" + TEMPLATE
    )
    prompts = write_task(tmp_path)["prompts"]
    quiet = Decoding(max_completion_tokens=2, is_thinking=False)
    done = evaluate_benchmark("custom", model, prompts=prompts, output=tmp_path, decoding=quiet)
    assert done.results["settings"]["template_arguments"] == {"enable_thinking": False}
    assert done.results["n"] == 12
    from uniapl.errors import InputError

    with pytest.raises(InputError, match="asked to think"):
        evaluate_benchmark("custom", model, prompts=prompts, output=tmp_path)


def test_a_long_prompt_that_shortens_all_answers_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    model = save_tiny_model(tmp_path / "model")
    rows = [
        json.loads(line) for line in Path(write_task(tmp_path)["prompts"]).read_text().splitlines()
    ]
    rows = [{**rows[0], "key": "long", "prompt": "sea " * 125}, *rows[1:2]]
    prompts = tmp_path / "long.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = evaluate_benchmark("custom", model, prompts=prompts, output=tmp_path / "e")
    limit = done.results["settings"]["max_completion_tokens"]
    assert 0 < limit < 20
    shown = capsys.readouterr().err
    assert (
        f"all answers end after {limit} tokens instead of 1280: prompt long has {512 - limit} "
        in shown
    )
