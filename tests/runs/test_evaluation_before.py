"""What an evaluation before training depends on, and where it is kept."""

import os
from pathlib import Path

import pytest
from tiny_runs import Tiny

from uniapl.errors import InputError
from uniapl.runs.evaluation_before import FOLDER, EvaluationBefore

EVALUATED = ({"n": 1}, [{"key": 0}])


def knows(tiny: Tiny, folder: Path, *words: str) -> bool:
    return EvaluationBefore(tiny.load(folder, *words)).read() == EVALUATED


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the runs of a comparison share."""
    monkeypatch.setenv(FOLDER, str(tmp_path / "before"))
    return tmp_path


@pytest.fixture
def kept(tiny: Tiny, shared: Path) -> Path:
    EvaluationBefore(tiny.load(shared)).write(EVALUATED)
    assert knows(tiny, shared)
    return shared


@pytest.mark.parametrize(
    "word",
    [
        "method=grpo",
        "seed=1",
        "objective.adversarial_weight=0.3",
        "training.steps=8",
        "rollout.group_size=2",
        "rollout.max_rows=3",
        "evaluation.best_metric=inst_level_strict_acc",
    ],
)
def test_how_a_run_trains_does_not_matter(tiny: Tiny, kept: Path, word: str):
    assert knows(tiny, kept, word)


@pytest.mark.parametrize(
    "words",
    [
        ["model.dtype=bfloat16"],
        ["model.tuning=lora"],
        ["data.system_prompt=Be brief."],
        ["rollout.max_completion_tokens=11"],
        ["evaluation.max_completion_tokens=11"],
        ["evaluation.limit=5"],
        ["evaluation.temperature=1"],
        ["evaluation.metrics=[uniapl.miniature.metrics:fluency]"],
    ],
)
def test_what_is_evaluated_and_how_does(tiny: Tiny, kept: Path, words: list[str]):
    assert not knows(tiny, kept, *words)


def test_sampled_answers_are_those_of_a_seed(tiny: Tiny, shared: Path):
    sampled = "evaluation.temperature=1"
    EvaluationBefore(tiny.load(shared, sampled)).write(EVALUATED)
    assert knows(tiny, shared, sampled)
    assert not knows(tiny, shared, sampled, "seed=1")


def test_files_that_were_changed_in_place_are_noticed(tiny: Tiny, shared: Path):
    tmp_path = shared
    prompts, model = tmp_path / "prompts.jsonl", tmp_path / "model"
    prompts.write_bytes(Path(tiny.task["test"]).read_bytes())
    model.mkdir()
    for file in tiny.model.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    (model / "gone").symlink_to(tmp_path / "nowhere")
    words = [f"evaluation.prompts={prompts}", f"model.path={model}"]
    for changed in (prompts, model / "config.json"):
        EvaluationBefore(tiny.load(tmp_path, *words)).write(EVALUATED)
        assert knows(tiny, tmp_path, *words)
        changed.write_text(changed.read_text() + "\n")
        assert not knows(tiny, tmp_path, *words)
    prompts.write_text(prompts.read_text().removesuffix("\n"))
    EvaluationBefore(tiny.load(tmp_path, *words)).write(EVALUATED)
    os.utime(prompts, (0, 0))  # written anew, with the same rows
    assert knows(tiny, tmp_path, *words)


def test_a_folder_that_cannot_be_made_is_refused_at_once(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(FOLDER, str(tmp_path / "file"))
    with pytest.raises(InputError, match=f"{FOLDER}: cannot make .*file"):
        EvaluationBefore(tiny.load(tmp_path))


def test_without_a_folder_nothing_is_kept(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv(FOLDER, raising=False)
    before = EvaluationBefore(tiny.load(tmp_path))
    before.write(EVALUATED)
    assert before.read() is None
    assert list(tmp_path.iterdir()) == []
