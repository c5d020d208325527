"""Wrong input of every kind, given to every command that takes it: status 2 and one line per problem, with the place.

The table is a product: what can be wrong with a file or a model, times where one can be given; and for every key of
a config a value of the wrong type and numbers out of range. Nothing here may reach the network or take long.
"""

import gzip
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny import save_tiny_model, save_tiny_reward_model, write_pairs, write_task
from tiny_runs import CONFIG

from uniapl import cli
from uniapl.config.keys import all_keys, describe_field

MAX_LINES = 12
"""Of one message: several problems of one input are several lines, but never a screen."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything is right: a config, data, models and a finished run."""
    folder = tmp_path_factory.mktemp("right")
    save_tiny_model(folder / "model")
    save_tiny_reward_model(folder / "judge")
    write_task(folder)
    write_pairs(folder / "pairs.jsonl")
    (folder / "seeds.txt").write_text("Why do birds sing?\n")
    (folder / "answers.jsonl").write_text(
        "".join(json.dumps({"key": key, "response": "a b c"}) + "\n" for key in range(12))
    )
    (folder / "wrong_rewards.py").write_text(REWARDS)
    names = {name: f"./{name}.jsonl" for name in ("demonstrations", "prompts", "test")}
    (folder / "c.yaml").write_text(CONFIG.format(model="./model", **names))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        # the margin is measured on two held-out demonstrations
        assert cli.main(["train", "c.yaml", *QUICK, "output_dir=run"]) == 0
        assert cli.main(["train", "c.yaml", *QUICK, "output_dir=broken"]) == 0
    return folder


@pytest.fixture
def here(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder as the working directory; what a test put there is gone afterwards, and nothing else has changed."""
    monkeypatch.chdir(prepared)
    before = {path for path in prepared.rglob("*") if "broken" not in path.parts}
    yield prepared
    shutil.rmtree(prepared / "bad", ignore_errors=True)
    left = {path for path in prepared.rglob("*") if "broken" not in path.parts} - before
    shutil.rmtree(prepared / "unset", ignore_errors=True)
    assert not {path for path in left if "__pycache__" not in path.parts}


def refused(capfd: pytest.CaptureFixture[str], words: list[str]) -> str:
    """Run a command that must be refused; return its message."""
    capfd.readouterr()
    status = cli.main(words)
    out, err = capfd.readouterr()
    assert status == 2, (out, err)
    assert out == ""
    assert err.startswith("error: "), err
    lines = err.splitlines()
    assert len(lines) <= MAX_LINES, err
    assert "Traceback" not in err
    assert not re.search(r"<class |\bobject at 0x|Error\(", err), err
    counted = re.search(r"(\d+) problem\(s\)$", lines[0])
    if counted:
        assert len(lines) == 1 + int(counted[1]), err
    return err


QUICK = ["training.steps=1", "training.checkpoint_every=0"]
TRAIN = ["train", "c.yaml", *QUICK]

FILES: dict[str, Callable[[str], list[str]]] = {
    "demonstrations": lambda bad: [*TRAIN, f"data.demonstrations={bad}"],
    "prompts": lambda bad: [*TRAIN, f"data.prompts={bad}"],
    "pairs": lambda bad: [*TRAIN, "discriminator.form=scalar", f"data.pairs={bad}"],
    "evaluation": lambda bad: [*TRAIN, f"evaluation.prompts={bad}"],
    "preview": lambda bad: ["train", "c.yaml", "--preview", f"data.prompts={bad}"],
    "plan": lambda bad: ["plan", "c.yaml", f"data.demonstrations={bad}"],
    "benchmark": lambda bad: ["evaluate", "model", "--benchmark", "custom", "--prompts", bad],
    "responses": lambda bad: [*"evaluate --benchmark custom --prompts test.jsonl --responses".split(), bad],
    "labelled": lambda bad: ["evaluate", "judge", "--pairs", bad],
    "collect": lambda bad: ["collect", bad, "--output", "o.jsonl", "--local", "model"],
    "seeds": lambda bad: ["prompts", bad, "--output", "o.jsonl"],
    "exclude": lambda bad: ["prompts", "seeds.txt", "--output", "o.jsonl", "--exclude", bad],
    "init": lambda bad: ["init", "new.yaml", "--demonstrations", bad],
}  # fmt: skip
"""Where a file of rows can be given."""

ROW = b'{"prompt": "Name a sea.", "completion": "the sea"}\n'

BROKEN_FILES: dict[str, tuple[str, bytes | None, str]] = {
    "missing": ("bad/x.jsonl", None, "no such file"),
    "a folder": ("bad/folder.jsonl", None, "is a folder"),
    "empty": ("bad/x.jsonl", b"", "no rows"),
    "blank": ("bad/x.jsonl", b"\n \n", "no rows"),
    "half a line": ("bad/x.jsonl", ROW + ROW[:20], "x.jsonl:2: not JSON"),
    "no objects": ("bad/x.jsonl", b"17\n", "x.jsonl:1: a row must be a JSON object, not a number"),
    "half an array": ("bad/x.json", b'[{"prompt": "a"},', "not JSON"),
    "other columns": ("bad/x.jsonl", b'{"zzz": "a"}\n', "x.jsonl:1"),
    "null": ("bad/x.jsonl", b'{"prompt": null, "completion": null}\n', "x.jsonl:1"),
    "a number for a text": ("bad/x.jsonl", b'{"prompt": 7, "completion": 7}\n', "x.jsonl:1"),
    "not UTF-8": ("bad/x.jsonl", b'{"prompt": "\xff"}\n', "not UTF-8"),
    "no gzip": ("bad/x.jsonl.gz", ROW, "cannot be read"),
    "half a gzip": ("bad/x.jsonl.gz", gzip.compress(ROW * 99)[:40], "cannot be read"),
    "half a surrogate pair": ("bad/x.jsonl", b'{"prompt": "\\ud83c"}\n', "half a surrogate"),
    "another kind": ("bad/x.docx", b"PK", "unknown kind of file"),
    "cells too many": ("bad/x.csv", b"prompt,completion\na,b,c\n", "x.csv:2"),
}
"""What can be wrong with one: the name, the contents (None: no file), and what must be said."""


@pytest.mark.parametrize("kind", BROKEN_FILES)
@pytest.mark.parametrize("place", FILES)
def test_a_broken_file(place: str, kind: str, here: Path, capfd: pytest.CaptureFixture[str]):
    name, contents, said = BROKEN_FILES[kind]
    (here / "bad").mkdir()
    if contents is not None:
        (here / name).write_bytes(contents)
    elif kind == "a folder":
        (here / name).mkdir()
    message = refused(capfd, FILES[place](name))
    assert said in message, message
    assert Path(name).name in message


@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root may read every file")
@pytest.mark.parametrize("place", FILES)
def test_a_file_that_may_not_be_read(place: str, here: Path, capfd: pytest.CaptureFixture[str]):
    (here / "bad").mkdir()
    (here / "bad/x.jsonl").write_bytes(ROW)
    (here / "bad/x.jsonl").chmod(0)
    assert "Permission denied" in refused(capfd, FILES[place]("bad/x.jsonl"))


MODELS: dict[str, Callable[[str], list[str]]] = {
    "train": lambda bad: [*TRAIN, f"model.path={bad}"],
    "chat": lambda bad: ["chat", bad],
    "evaluate": lambda bad: [*"evaluate --benchmark custom --prompts test.jsonl".split(), bad],
    "collect": lambda bad: ["collect", "prompts.jsonl", "--output", "o.jsonl", "--local", bad],
    "reward": lambda bad: [*TRAIN, f"rewards=[{{function: model, path: {bad}}}]"],
    "judge": lambda bad: ["evaluate", bad, "--pairs", "pairs.jsonl"],
    "plan": lambda bad: ["plan", "c.yaml", f"model.path={bad}"],
}
"""Where a model can be given."""


def _edited(file: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_bytes(change((folder / file).read_bytes())) and None


BROKEN_MODELS: dict[str, Callable[[Path], object]] = {
    "missing": shutil.rmtree,
    "empty folder": lambda folder: [file.unlink() for file in folder.iterdir()],
    "no config": lambda folder: (folder / "config.json").unlink(),
    "half a config": _edited("config.json", lambda text: text[:40]),
    "another architecture": _edited("config.json", lambda text: text.replace(b"qwen3", b"zzz")),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "half the weights": _edited("model.safetensors", lambda data: data[: len(data) // 2]),
    "a Git LFS pointer": _edited("model.safetensors", lambda _: b"version https://git-lfs.github"),
    "no tokenizer": lambda folder: [file.unlink() for file in folder.glob("*token*")],
    "half a tokenizer": _edited("tokenizer.json", lambda text: text[:99]),
}
"""What can be wrong with one: done to a copy that is right."""

NEEDS_NO_WEIGHTS = ("plan",)


@pytest.mark.parametrize("kind", BROKEN_MODELS)
@pytest.mark.parametrize("place", MODELS)
def test_a_broken_model(place: str, kind: str, here: Path, capfd: pytest.CaptureFixture[str]):
    if place in NEEDS_NO_WEIGHTS and ("weights" in kind or "pointer" in kind):
        pytest.skip("a plan reads no weights")
    good = "judge" if place in ("reward", "judge") else "model"
    shutil.copytree(here / good, here / "bad/model")
    BROKEN_MODELS[kind](here / "bad/model")
    message = refused(capfd, MODELS[place]("./bad/model"))
    assert len(message.splitlines()) == 1, message
    assert "bad/model" in message


@pytest.mark.parametrize("place", MODELS)
def test_a_hub_id_without_network(place: str, here: Path, capfd: pytest.CaptureFixture[str]):
    message = refused(capfd, MODELS[place]("nobody/no-such-model"))
    assert len(message.splitlines()) == 1, message
    assert "nobody/no-such-model" in message


KEYS = [key for key in all_keys() if key.section is None and key.path != "rewards"]
NUMBERS = [key for key in KEYS if re.match("integer|number", describe_field(key.field))]


def _override(path: str, value: str) -> str:
    if path.startswith("rewards.0."):
        name = path.removeprefix("rewards.0.")
        function = "" if name == "function" else "function: instructions, "
        return f"rewards=[{{{function}{name}: {value}}}]"
    return f"{path}={value}"


@pytest.mark.parametrize("path", [key.path for key in KEYS])
def test_a_value_of_the_wrong_type(path: str, here: Path, capfd: pytest.CaptureFixture[str]):
    message = refused(capfd, ["train", "c.yaml", _override(path, "[{a: [1, {}]}]")])
    assert f"\n  {path}" in message
    assert "must be" in message


@pytest.mark.parametrize("value", ["-1e30", ".nan", "many"])
@pytest.mark.parametrize("path", [key.path for key in NUMBERS])
def test_a_number_out_of_range(
    path: str, value: str, here: Path, capfd: pytest.CaptureFixture[str]
):
    if (path, value) == ("rewards.0.weight", "-1e30"):
        pytest.skip("a negative weight is a penalty")
    assert f"\n  {path}: must be" in refused(capfd, ["train", "c.yaml", _override(path, value)])


@pytest.mark.parametrize("path", sorted({key.path for key in KEYS}))
def test_a_key_with_a_letter_too_many(path: str, here: Path, capfd: pytest.CaptureFixture[str]):
    message = refused(capfd, ["train", "c.yaml", _override(path + "s", "1")])
    assert f"\n  {path}s: unknown key; did you mean" in message
    assert path in message.replace(f"{path}s", "")


BROKEN_CONFIGS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "output_dir: required"),
    "a list": (b"- a\n", "must"),
    "a text": (b"hello\n", "must"),
    "a tab": (b"model:\n\tpath: m\n", "x.yaml: line 2"),
    "an open bracket": (b"data: {demonstrations: [a\n", "x.yaml: line"),
    "a key twice": (b"seed: 1\nseed: 2\n", "x.yaml: line 2"),
    "not UTF-8": (b"method: \xff\n", "UTF-8"),
    "binary": (bytes(range(256)), "x.yaml"),
    "a Python object": (b"seed: !!python/object/apply:os.getpid []\n", "x.yaml"),
    "two documents": (b"seed: 1\n---\nseed: 2\n", "x.yaml"),
}


@pytest.mark.parametrize("kind", BROKEN_CONFIGS)
@pytest.mark.parametrize("command", ["train", "plan", "config show", "compare --methods sft,mix"])
def test_a_broken_config(command: str, kind: str, here: Path, capfd: pytest.CaptureFixture[str]):
    contents, said = BROKEN_CONFIGS[kind]
    (here / "bad").mkdir()
    (here / "bad/x.yaml").write_bytes(contents)
    message = refused(capfd, [*command.split(), "bad/x.yaml"])
    assert said in message, message


REWARDS = '''\
"""Rewards that are wrong in one way each."""

BOTH = 3


def good(prompts, completions, **columns):
    return [0.0 for _ in completions]


def wants_more(prompts, completions, difficulty):
    return [0.0 for _ in completions]
'''

SINGLE: dict[str, tuple[str, str]] = {
    "no command": ("trian c.yaml", "did you mean train?"),
    "no such option": ("train c.yaml --sed 1", "unknown option --sed"),
    "unknown method": ("train c.yaml method=ppo", "method: must be one of"),
    "no value": ("train c.yaml seed", "'seed': an override is"),
    "a term without reward": ("train c.yaml method=sft objective.kl_coef=0.1", "remove objective.kl_coef"),
    "contradicting counts": (
        "train c.yaml data.prompts_per_step=1",
        "data.demonstration_prompts_per_step",
    ),
    "no prompts to roll out": ("train c.yaml data.prompts=null", "data.prompts: required"),
    "clamp of a scalar": (
        "train c.yaml discriminator.form=scalar discriminator.credit_clamp=2",
        "has no use for it",
    ),
    "no reward module": ("train c.yaml rewards=[{function:\u00a0'no_such:f'}]", "no_such"),
    "no reward file": ("train c.yaml rewards=[{function:\u00a0'./no_such.py:f'}]", "no_such.py"),
    "no reward function": ("train c.yaml rewards=[{function:\u00a0'./wrong_rewards.py:f'}]", "function f"),
    "a reward that is a number": (
        "train c.yaml rewards=[{function:\u00a0'./wrong_rewards.py:BOTH'}]",
        "BOTH",
    ),
    "a reward of a column": (
        "train c.yaml rewards=[{function:\u00a0'./wrong_rewards.py:wants_more'}]",
        "difficulty",
    ),
    "an argument that no reward takes": (
        "train c.yaml rewards=[{function:\u00a0'instructions',arguments:\u00a0{a:\u00a01}}]",
        "arguments",
    ),
    "a data set without network": ("train c.yaml data.prompts=nobody/none:train", "nobody/none"),
    "seeds without network": ("prompts nobody/none --output o.jsonl", "nobody/none"),
    "no tracker": ("train c.yaml training.trackers=[mlflow]", "training.trackers"),
    "no device": ("train c.yaml training.device=cuda:99", "training.device"),
    "no checkpoint": ("train c.yaml training.resume=./no-such", "no-such"),
    "a run that is there": ("train c.yaml output_dir=run", "run"),
    "a file as run folder": ("train c.yaml output_dir=seeds.txt/run", "seeds.txt"),
    "seeds that are words": ("compare c.yaml --methods sft,mix --seeds a", "seeds"),
    "one arm twice": ("compare c.yaml --methods sft,sft", "sft"),
    "an unknown arm": ("compare c.yaml --methods sft,ppo", "ppo"),
    "a grid of nobody": ("compare c.yaml --methods sft,mix --grid gad:seed=1", "gad"),
    "no jobs": ("compare c.yaml --methods sft,mix --seeds 0 --jobs 0", "jobs"),
    "no report": ("report no-such-run", "no-such-run"),
    "a report of a file": ("report seeds.txt", "seeds.txt"),
    "a report of a model": ("report model", "model"),
    "chat with a file": ("chat seeds.txt", "seeds.txt"),
    "chat at -1": ("chat model --temperature -1", "--temperature"),
    "compared without a run": ("chat model --compare", "--compare"),
    "no benchmark": ("evaluate model --benchmark mmlu --prompts test.jsonl", "mmlu"),
    "no prompts": ("evaluate model --benchmark custom", "--prompts"),
    "no model": ("evaluate --benchmark custom --prompts test.jsonl", "give a model"),
    "a limit of 0": ("evaluate model --benchmark custom --prompts test.jsonl --limit 0", "limit"),
    "a limit of words": (
        "evaluate model --benchmark custom --prompts test.jsonl --limit all",
        "--limit",
    ),
    "nan": (
        "evaluate model --benchmark custom --prompts test.jsonl --temperature nan",
        "--temperature",
    ),
    "an output in a file": (
        "evaluate model --benchmark custom --prompts test.jsonl --output seeds.txt/o",
        "seeds.txt",
    ),
    "pairs of no judge": ("evaluate model --pairs pairs.jsonl", "model"),
    "two experts": ("collect prompts.jsonl --output o.jsonl --local model --endpoint x", "one of"),
    "no expert": ("collect prompts.jsonl --output o.jsonl", "one of"),
    "an endpoint without model": (
        "collect prompts.jsonl --output o.jsonl --endpoint http://127.0.0.1:9/v1",
        "--model",
    ),
    "an address that is none": (
        "collect prompts.jsonl --output o.jsonl --endpoint zzz --model m",
        "zzz",
    ),
    "a share above 1": (
        "collect prompts.jsonl --output o.jsonl --local model --min-pass 2",
        "--min-pass",
    ),
    "broken extra body": (
        "collect prompts.jsonl --output o.jsonl --local model --extra-body {",
        "--extra-body",
    ),
    "output over input": ("collect prompts.jsonl --output prompts.jsonl --local model", "overwrite"),
    "no instructions": ("prompts seeds.txt --output o.jsonl --min-instructions -1", "instructions"),
    "turned counts": (
        "prompts seeds.txt --output o.jsonl --min-instructions 4 --max-instructions 2",
        "instructions",
    ),
    "init over a file": ("init c.yaml", "is there already"),
    "init in a file": ("init seeds.txt/x.yaml", "seeds.txt"),
    "a push of no run": ("push no-such-run somebody/first", "no-such-run"),
    "a push of a model": ("push model somebody/first", "is no run folder"),
    "a push to no name": ("push run first", "OWNER/NAME"),
    "a push of a preview": ("train c.yaml --preview --push-to-hub a/b", "--push-to-hub has no effect"),
    "columns that are a list": ("prompts seeds.txt --output o.jsonl --columns [a]", "--columns must"),
    "no packaged config": ("train miniatur", "miniatur"),
    "no measured run": ("plan c.yaml --measured no-such-run", "no-such-run"),
}  # fmt: skip


@pytest.mark.parametrize("kind", SINGLE)
def test_a_single_mistake(kind: str, here: Path, capfd: pytest.CaptureFixture[str]):
    text, said = SINGLE[kind]
    words = [word.replace("\u00a0", " ") for word in text.split(" ")]
    message = refused(capfd, words)
    assert said in message, message


BROKEN_CHECKPOINTS: dict[str, Callable[[Path], object]] = {
    "half a state": _edited("state.pt", lambda data: data[:900]),
    "an empty state": _edited("state.pt", lambda _: b""),
    "a state of text": _edited("state.pt", lambda _: b"hello"),
    "no state": lambda folder: (folder / "state.pt").unlink(),
}


@pytest.mark.parametrize("kind", BROKEN_CHECKPOINTS)
def test_a_broken_checkpoint(kind: str, here: Path, capfd: pytest.CaptureFixture[str]):
    copy = here / "bad/step_000001"
    shutil.copytree(here / "broken/checkpoints/step_000001", copy)
    BROKEN_CHECKPOINTS[kind](copy)
    words = ["train", "c.yaml", "output_dir=broken", "training.steps=2", f"training.resume={copy}"]
    message = refused(capfd, words)
    assert "step_000001" in message
    assert "damaged or incomplete" in message or kind == "no state"
