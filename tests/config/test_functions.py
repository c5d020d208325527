"""Functions of rewards and metrics in a config: where they are found, and what they are given."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from uniapl.config import dump_config, load_config, resolved
from uniapl.config.loading import dump_published
from uniapl.config.schema import Config
from uniapl.errors import InputError


@pytest.fixture
def load(tmp_path: Path, minimal: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Config]:
    """Load a config of the folder `project`, from the folder `here`."""
    for folder in ("project/package", "here"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("project/mine.py", "project/package/part.py", "project/both.py", "here/both.py"):
        (tmp_path / file).touch()
    (tmp_path / "here/only_here.py").touch()
    monkeypatch.chdir(tmp_path / "here")

    def load(*functions: str, words: tuple[str, ...] = ()) -> Config:
        rewards = [{"function": f, "name": f"r{i}"} for i, f in enumerate(functions)]
        content = yaml.safe_load(minimal.read_text())
        content |= {"rewards": rewards, "evaluation": {"metrics": list(functions[:1])}}
        file = tmp_path / "project/c.yaml"
        file.write_text(yaml.safe_dump(content))
        return load_config(file, words)

    return load


def test_functions_are_found_beside_the_config(load: Callable[..., Config], tmp_path: Path):
    project, here = tmp_path / "project", tmp_path / "here"
    config = load(
        *("mine:f", "package.part:f", "both:f", "only_here:f", "os.path:join", "instructions"),
        *("./mine.py:f", "../here/both.py:f", "mine.py:f", "both.py:f", "only_here.py:f"),
    )
    assert [reward.function for reward in config.rewards] == [
        *(f"{project}/mine.py:f", f"{project}/package/part.py:f", f"{project}/both.py:f"),
        *("only_here:f", "os.path:join", "instructions"),
        *(f"{project}/mine.py:f", f"{here}/both.py:f", f"{project}/mine.py:f"),
        # without `./` the working directory goes first, as for all paths
        *("both.py:f", "only_here.py:f"),
    ]
    assert config.evaluation.metrics == (f"{project}/mine.py:f",)
    full = resolved(config)
    assert [reward.function for reward in full.rewards[-2:]] == [
        f"{here}/both.py:f",
        f"{here}/only_here.py:f",
    ]
    assert full.rewards[:-2] == config.rewards[:-2]


def test_in_an_override_the_working_directory_goes_first(
    load: Callable[..., Config], tmp_path: Path
):
    project, here = tmp_path / "project", tmp_path / "here"
    names = ("mine:f", "both:f", "./both.py:f", "mine.py:f")
    entries = ", ".join(f"{{function: '{f}', name: r{i}}}" for i, f in enumerate(names))
    config = load("mine:g", words=(f"rewards=[{entries}]", "evaluation.metrics=['both:f']"))
    assert [reward.function for reward in config.rewards] == [
        *(f"{project}/mine.py:f", "both:f", "./both.py:f", f"{project}/mine.py:f")
    ]
    assert config.evaluation.metrics == ("both:f",)
    assert resolved(config).rewards[2].function == f"{here}/both.py:f"


def test_other_people_get_no_folders_of_this_machine(load: Callable[..., Config], tmp_path: Path):
    config = load("mine:f", words=("rewards.0.arguments={limit: 3}",))
    text = dump_published(resolved(config))
    assert "function: mine.py:f" in text
    assert "metrics: ['mine.py:f']" in text
    assert str(tmp_path) not in text


def test_arguments_come_as_they_are_written(load: Callable[..., Config], tmp_path: Path):
    words = ("rewards.0.arguments={words: [a, [b, 1.5]], deep: {on: true, none: null}}",)
    config = load("mine:f", words=words)
    given = {"words": ["a", ["b", 1.5]], "deep": {"on": True, "none": None}}
    assert config.rewards[0].arguments == given
    again = tmp_path / "again.yaml"
    again.write_text(dump_config(config))
    assert load_config(again) == config
    assert load("mine:f", words=("rewards.0.arguments.limit=3",)).rewards[0].arguments == {
        "limit": 3
    }


@pytest.mark.parametrize("function", ["instructions", "model"])
def test_built_in_rewards_take_no_arguments(load: Callable[..., Config], function: str):
    path = ("rewards.0.path=folder",) if function == "model" else ()
    with pytest.raises(InputError) as caught:
        load(function, words=("evaluation.metrics=[]", "rewards.0.arguments={a: 1}", *path))
    [_, line] = str(caught.value).splitlines()
    assert line.strip() == (
        f"rewards.0.arguments: has no effect with rewards.0.function {function}: only functions of "
        "your own take them; remove it"
    )
    text = dump_config(load(function, words=("evaluation.metrics=[]", *path)))
    assert "arguments" not in yaml.safe_load(text)["rewards"][0]


@pytest.mark.parametrize("function", ["f", "rewards.py", "a b:f", "x.py:", "x.py:f g"])
def test_what_is_no_function(load: Callable[..., Config], function: str):
    with pytest.raises(InputError, match=r"rewards\.0\.function: must be .*module:function"):
        load("mine:f", words=(f"rewards=[{{function: '{function}'}}]",))
