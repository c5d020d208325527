import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uniapl.config import (
    Config,
    dump_config,
    load_config,
    overridden_keys,
    packaged_configs,
    resolved,
)
from uniapl.config.strict_yaml import dump_yaml, load_yaml
from uniapl.errors import InputError


def problems(path: Path | str, *overrides: str) -> list[str]:
    """Load a config that must fail; return its lines without the first."""
    with pytest.raises(InputError) as caught:
        load_config(path, overrides)
    first, *lines = str(caught.value).splitlines()
    assert first == f"{path}: {len(lines)} problem(s)"
    assert all(line.startswith("  ") for line in lines)
    return [line[2:] for line in lines]


def test_file_and_overrides(minimal: Path):
    config = load_config(
        minimal, ["optimizer.learning_rate=1e-6", "method=grpo", "seed=3", "seed=4"]
    )
    assert config.optimizer.learning_rate == 1e-6
    assert config.method == "grpo"
    assert config.seed == 4  # the later word wins
    assert config.rollout.group_size == 8


def test_all_problems_at_once(write: Callable[[str], Path]):
    path = write(
        "modle: {path: x}\noutput_dir: runs/x\ndata: {demonstrations: d}\ntraining: {steps: 2}\n"
        "rollout: {group_size: sixteen}\noptimizer: {learning_rate: -1}\n"
    )
    assert problems(path) == [
        "rollout.group_size: must be an integer, got 'sixteen'",
        "optimizer.learning_rate: must be greater than 0, got -1",
        "modle: unknown key; did you mean model?",
    ]


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("group_size=4", "group_size: unknown key; did you mean rollout.group_size?"),
        (
            "optimizer.group_size=4",
            "optimizer.group_size: unknown key; did you mean rollout.group_size?",
        ),
        (
            "rollout.group_sise=4",
            "rollout.group_sise: unknown key; did you mean rollout.group_size?",
        ),
        (
            "learning_rate=1",
            "learning_rate: unknown key; "
            "did you mean discriminator.learning_rate or optimizer.learning_rate?",
        ),
        ("lr=1", "lr: unknown key; did you mean optimizer.learning_rate?"),
        ("rolout.group_size=4", "rolout: unknown key; did you mean rollout?"),
        ("xyzzy=1", "xyzzy: unknown key"),
        ("metod=grpo", "metod: unknown key; did you mean method?"),
        ("seed", "'seed': an override is written key=value"),
        ("=3", "'=3': an override is written key=value"),
        ("seed.x=1", "seed: must be an integer, got {x: 1}"),
        ("output_dir.x=1", "output_dir.x: unknown key; output_dir has no keys below it"),
        ("seed=", "seed: must be an integer, got null"),
        ("seed=1.5", "seed: must be an integer, got 1.5"),
        ("seed=true", "seed: must be an integer, got true"),
        ("seed=-1", "seed: must be at least 0, got -1"),
        ("output_dir=3", "output_dir: must be text, got 3"),
        ("output_dir=''", "output_dir: must not be empty"),
        (
            "output_dir=runs/a #1",
            "output_dir: 'runs/a #1' is read as 'runs/a'; for the text itself write '\"…\"'",
        ),
        (
            "data.system_prompt=# hashtags",
            "data.system_prompt: '# hashtags' is read as None; for the text itself write '\"…\"'",
        ),
        (
            "data.system_prompt=one\ntwo",
            "data.system_prompt: 'one\\ntwo' is read as 'one two'; for the text itself write '\"…\"'",
        ),
        ("seed=99999999999999999999", "seed: must be below 2^63, got 99999999999999999999"),
        (
            'data.system_prompt="\\ud800"',
            "data.system_prompt: holds a null or half a surrogate pair, which no file can hold",
        ),
        (
            'model.path="a\\0b"',
            "model.path: holds a null or half a surrogate pair, which no file can hold",
        ),
        (
            "data.template_arguments={enable_thinking: no}",
            "data.template_arguments: enable_thinking must be true or false, got the text 'no'",
        ),
        ("rewards.².weight=2", "rewards.².weight: no such entry; rewards has 1, numbered from 0"),
        ("data.demonstrations=&a [*a]", "a value holds itself, or is nested too deeply"),
        ("training.steps=1e400", "training.steps: must be an integer, got inf"),
        (
            "optimizer.learning_rate=.inf",
            "optimizer.learning_rate: must be a finite number, got inf",
        ),
        ("optimizer.learning_rate='1e-6'", "optimizer.learning_rate: must be a number, got '1e-6'"),
        ("objective.clip_low=1.5", "objective.clip_low: must be at most 1, got 1.5"),
        ("rewards.0.all_or_nothing=2", "rewards.0.all_or_nothing: must be at most 1, got 2"),
        ("rollout.mask_truncated=yes", "rollout.mask_truncated: must be true or false, got 'yes'"),
        (
            "model.dtype=float16",
            "model.dtype: must be one of float32, bfloat16, got 'float16'; did you mean bfloat16?",
        ),
        ("model=3", "model: must hold keys of its own, got 3"),
        ("model.path=null", "model.path: must be text, got null"),
        ("evaluation.metrics=a:b", "evaluation.metrics: must be a list, got 'a:b'"),
        (
            "evaluation.metrics=[a]",
            "evaluation.metrics.0: must be module:function or FILE.py:function, got 'a'",
        ),
        (
            "rewards=[{function: a b}]",
            "rewards.0.function: must be instructions, model or module:function, got 'a b'",
        ),
        ("rewards=[{weight: 2}]", "rewards.0.function: required, but missing"),
        ("rewards=[3]", "rewards.0: must hold keys of its own, got 3"),
        ("rewards={function: a:b}", "rewards: must be a list, got {function: 'a:b'}"),
        ("rewards.1.weight=2", "rewards.1.weight: no such entry; rewards has 1, numbered from 0"),
        ("rewards.x=2", "rewards.x: no such entry; rewards has 1, numbered from 0"),
        ("rewards.0.weigth=2", "rewards.0.weigth: unknown key; did you mean rewards.0.weight?"),
        (
            "objective.kl_coef=[[0, 1], [2, 1]]",
            "objective.kl_coef: must be a number ≥ 0 or points [[fraction, value], …] "
            "with fractions from 0 to 1 or {start, peak, end, warmup, decay}, got [[0, 1], [2, 1]]",
        ),
    ],
)
def test_one_wrong_override(minimal: Path, override: str, line: str):
    assert problems(minimal, override) == [line]


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("'Use #hashtags #now'", "Use #hashtags #now"),
        ('"one\\ntwo"', "one\ntwo"),
        ("  a#b ", "a#b"),
        ("null", None),
        ("", None),
        ("'null'", "null"),
    ],
)
def test_what_an_override_says_is_what_is_read(minimal: Path, word: str, text: str | None):
    assert load_config(minimal, [f"data.system_prompt={word}"]).data.system_prompt == text


def test_yaml_mistake_in_an_override(minimal: Path):
    (line,) = problems(minimal, "rewards=[{")
    assert line.startswith("'rewards=[{': line 1, column 3: not valid YAML")


def test_missing_required_keys_are_named_down_to_the_value(write: Callable[[str], Path]):
    assert problems(write("seed: 1\n")) == [
        "output_dir: required, but missing",
        "model.path: required, but missing",
        "data.demonstrations: required, but missing",
        "training.steps: required, but missing",
    ]
    assert len(problems(write(""))) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "must be a mapping of keys, got list"),
        ("hello", "must be a mapping of keys, got str"),
        ("seed: 1\nseed: 2", "line 2: seed is given twice (first in line 1)"),
    ],
)
def test_not_a_config(write: Callable[[str], Path], text: str, message: str):
    path = write(text)
    with pytest.raises(InputError) as caught:
        load_config(path)
    assert str(caught.value) == f"{path}: {message}"


def test_missing_file(minimal: Path, tmp_path: Path):
    with pytest.raises(
        InputError, match=r"minimul.yaml: no such file; did you mean .*minimal\.yaml\?"
    ):
        load_config(minimal.with_name("minimul.yaml"))
    with pytest.raises(
        InputError,
        match=r"^miniatur: no such file; did you mean miniature\? \(packaged configs: miniature",
    ):
        load_config("miniatur")
    with pytest.raises(InputError, match="is a folder, not a YAML file"):
        load_config(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").touch()
    with pytest.raises(InputError, match=r"is a folder; did you mean .*run/config\.yaml\?"):
        load_config(tmp_path / "run")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    with pytest.raises(InputError, match="is not UTF-8"):
        load_config(tmp_path / "latin.yaml")


def test_lists_in_overrides(minimal: Path):
    config = load_config(
        minimal,
        ["evaluation.metrics=[a:b, c.d:e]", "rewards=[{function: instructions}, {function: m:f}]"],
    )
    assert config.evaluation.metrics == ("a:b", "c.d:e")
    assert [reward.function for reward in config.rewards] == ["instructions", "m:f"]
    config = load_config(minimal, ["rewards=[{function: m:f}]", "rewards.0.weight=-1"])
    assert config.rewards[0].weight == -1
    # The file names no rewards: the index means the default's entry.
    config = load_config(minimal, ["rewards.0.weight=2"])
    assert [(reward.function, reward.weight) for reward in config.rewards] == [("instructions", 2)]


def test_a_mapping_in_an_override_leaves_the_other_keys(minimal: Path):
    config = load_config(minimal, ["data={prompts_per_step: 9}"])
    assert config.data.prompts_per_step == 9
    assert config.data.demonstrations == "d.jsonl"


def test_an_empty_section_is_its_defaults(write: Callable[[str], Path], minimal: Path):
    path = write(minimal.read_text() + "rollout:\n  # group_size: 4\nconstraint:\n")
    assert load_config(path) == load_config(minimal)


def test_overridden_keys():
    words = ["seed=1", "data={prompts: x, system_prompt: y}", "rewards.0.weight=2", "bad"]
    expected = {"seed", "data.prompts", "data.system_prompt", "rewards.0.weight"}
    assert overridden_keys(words) == expected


def test_paths_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "package/configs"
    folder.mkdir(parents=True)
    (folder / "a.yaml").write_text(
        "output_dir: ./out\nmodel: {path: ../model}\n"
        "data: {demonstrations: files/d.jsonl, prompts: Org/name, pairs: ../pairs.jsonl}\n"
        "discriminator: {path: ../larger}\n"
        "objective: {pair_weight: 0.1}\n"
        "rewards: [{function: instructions}, {function: model, path: ../judge}]\n"
        "training: {steps: 1, resume: ./out/checkpoints/step_000001}\n"
        "evaluation: {prompts: ../test.jsonl}\n"
    )
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    config = load_config("link/a.yaml", ["output_dir=./here"])
    package = tmp_path.resolve() / "package"
    assert config.model.path == str(package / "model")
    assert config.evaluation.prompts == str(package / "test.jsonl")
    assert config.training.resume == str(package / "configs/out/checkpoints/step_000001")
    assert config.data.demonstrations == "files/d.jsonl"
    assert config.data.prompts == "Org/name"
    assert config.data.pairs == str(package / "pairs.jsonl")
    assert config.discriminator.path == str(package / "larger")
    assert [reward.path for reward in config.rewards] == [None, str(package / "judge")]
    assert config.output_dir == "./here"


def test_resolved_paths_reload_from_anywhere(
    minimal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.jsonl").touch()
    (tmp_path / "judge").mkdir()
    models = "rewards=[{function: model, path: judge}, {function: model, path: a/b, name: b}]"
    words = ["training.resume=checkpoints/a", "data.prompts=../p", models]
    config = resolved(load_config(minimal, words))
    here = str(tmp_path)
    assert config.output_dir == f"{here}/runs/test"
    assert config.data.demonstrations == f"{here}/d.jsonl"
    assert config.training.resume == f"{here}/checkpoints/a"
    assert config.data.prompts == f"{here}/../p"
    assert config.model.path == "some/model"  # nothing of that name here: a hub id
    assert [reward.path for reward in config.rewards] == [f"{here}/judge", "a/b"]
    assert resolved(load_config(minimal)).training.resume == "never"
    served = ["discriminator={form: reference, path: judge, servers: ['http://a']}"]
    assert resolved(load_config(minimal, served)).discriminator.path == "judge"
    dumped = tmp_path / "dumped.yaml"
    dumped.write_text(dump_config(config))
    monkeypatch.chdir(os.sep)
    assert resolved(load_config(dumped)) == config


def test_packaged_configs_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert "miniature" in packaged_configs()
    config = load_config("miniature")
    assert Path(config.model.path).is_absolute()
    (tmp_path / "miniature").mkdir()  # a folder of the same name does not hide it
    assert load_config("miniature") == config


_WEIGHTS = st.floats(0, 1e6) | st.lists(
    st.tuples(st.floats(0, 1), st.floats(0, 10)), min_size=1, max_size=4
).map(lambda points: [list(point) for point in sorted(points)])

_OPTIONS: dict[str, st.SearchStrategy[Any]] = {
    "method": st.sampled_from(["sft", "grpo", "gad", "uniapl"]),
    "seed": st.integers(0, 2**31),
    "output_dir": st.text(min_size=1).filter(str.strip),
    "data.system_prompt": st.none() | st.text(),
    "data.demonstrations": st.sampled_from(["no", "1e-6", "Org/name", "~", "a: b", "#x", "é\x85"]),
    "objective.sft_weight": _WEIGHTS,
    "objective.kl_coef": _WEIGHTS,
    "optimizer.learning_rate": st.floats(1e-12, 1, exclude_min=True),
    "rollout.mask_truncated": st.booleans(),
    "rollout.importance_cap": st.none() | st.floats(1, 100),
    "discriminator.form": st.sampled_from(["scalar", "likelihood"]),
    "evaluation.metrics": st.lists(st.sampled_from(["a:b", "c.d:e"]), unique=True),
    "rewards": st.lists(
        st.fixed_dictionaries({"function": st.just("a:f"), "weight": st.floats(-5, 5)}),
        min_size=1,
        max_size=1,
    ),
}


@given(st.fixed_dictionaries({}, optional=_OPTIONS))
def test_dump_loads_back_equal(tmp_path_factory: pytest.TempPathFactory, options: dict[str, Any]):
    folder = tmp_path_factory.mktemp("dump")
    words = [f"{key}={dump_yaml(value)}" for key, value in options.items()]
    (folder / "a.yaml").write_text(
        "output_dir: o\nmodel: {path: m}\ntraining: {steps: 4}\n"
        "data: {demonstrations: d, prompts: p}\n"
    )
    config = load_config(folder / "a.yaml", words)
    (folder / "b.yaml").write_text(dump_config(config), encoding="utf-8")
    # Texts that look like ./paths would be anchored to the file, as they should.
    assert load_config(folder / "b.yaml") == config


def test_dump_holds_every_key_that_acts(minimal: Path):
    dumped = load_yaml(dump_config(load_config(minimal)), "dump")
    assert set(dumped) == set(Config.model_fields)
    assert set(dumped["optimizer"]) == set(Config.model_fields["optimizer"].annotation.model_fields)  # pyright: ignore
    assert dumped["discriminator"]["credit_clamp"] == 3.0
    scalar = load_yaml(dump_config(load_config(minimal, ["discriminator.form=scalar"])), "dump")
    assert "credit_clamp" not in scalar["discriminator"]


def test_gad_with_a_form_it_did_not_choose_reloads(minimal: Path, tmp_path: Path):
    config = load_config(minimal, ["method=gad", "discriminator.warmup_steps=8"])
    again = tmp_path / "again.yaml"
    again.write_text(dump_config(config))
    assert load_config(again) == config
