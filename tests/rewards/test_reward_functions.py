import sys

import pytest

from uniapl.errors import InputError
from uniapl.rewards import build_reward, check_columns, load_function, score
from uniapl.types import Prompt, Rollout


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current directory with a module of the user's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    before = set(sys.modules)
    (tmp_path / "my_rewards.py").write_text(
        "import math\nLIMIT = 3\n_hidden = math.sqrt\ndef brevity(completions): return [1.0]\n"
    )
    (tmp_path / "broken_rewards.py").write_text("import math\n\nmath.sqrt(-1)\n")
    (tmp_path / "needs_more.py").write_text("import not_installed_anywhere\n")
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def error_of(path):
    with pytest.raises(InputError) as caught:
        load_function(path)
    return str(caught.value)


def test_functions_of_the_current_directory_and_of_packages(here):
    assert load_function("my_rewards:brevity")(["x"]) == [1.0]
    assert load_function("os.path:join")("a", "b") == "a/b"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("my_rewards", "my_rewards: a function is written module:function or FILE.py:function"),
        (":f", ":f: a function is written module:function or FILE.py:function"),
        (
            "my_rewards:brevit",
            "my_rewards:brevit: my_rewards has no function brevit; did you mean brevity?",
        ),
        ("my_rewards:x", "my_rewards:x: my_rewards has no function x (it has: brevity)"),
        ("my_rewards:LIMIT", "my_rewards:LIMIT: LIMIT is not a function but int"),
        ("my_reward:f", "my_reward:f: no module my_reward; did you mean my_rewards?"),
        (
            "broken_rewards:f",
            "broken_rewards:f: importing it failed: ValueError: math domain error "
            "(broken_rewards.py:3)",
        ),
    ],
)
def test_what_cannot_be_loaded(here, path, message):
    assert error_of(path) == message


def test_modules_that_are_missing(here):
    assert error_of("nowhere.at_all:f") == (
        f"nowhere.at_all:f: no module nowhere; it is neither in {here} nor installed"
    )
    # not the user's module but one it imports
    message = error_of("needs_more:f")
    assert message.startswith(
        "needs_more:f: importing it failed: ModuleNotFoundError: No module named"
    )
    assert message.endswith("(needs_more.py:1)")


def test_a_file_named_like_a_module_whose_own_file_is_not_there(here):
    (here / "time.py").write_text("def f(completions): return [3.0]\n")
    assert load_function("time.py:f")([]) == [3.0]
    for name, value in (("one", 1.0), ("two", 2.0)):
        (here / name).mkdir()
        (here / name / "scorers.py").write_text(f"def f(completions): return [{value}]\n")
        assert load_function(f"{name}/scorers.py:f")([]) == [value]
        (here / name / "scorers.py").unlink()


def test_files_by_any_path(here, monkeypatch):
    folder = here / "elsewhere"
    folder.mkdir()
    (folder / "judges.py").write_text(
        "from helpers import LIMIT\ndef f(completions): return [LIMIT]\ndef g(completions): return f\n"
    )
    (folder / "helpers.py").write_text("LIMIT = 7.0\n")
    assert load_function("elsewhere/judges.py:f")([]) == [7.0]
    assert load_function(f"{folder}/judges.py:f")([]) == [7.0]
    # one file is one module
    assert load_function("./elsewhere/judges.py:g")([]) is load_function("elsewhere/judges.py:f")
    monkeypatch.setenv("HOME", str(folder))
    assert load_function("~/judges.py:f")([]) == [7.0]
    # what the folder holds hides nothing that is installed
    (folder / "json.py").write_text("def loads(completions): return 'mine'\n")
    assert load_function("json:loads")("1") == 1
    assert load_function("elsewhere/json.py:loads")([]) == "mine"
    assert load_function("json:loads")("1") == 1


def test_files_of_one_name_in_two_folders(here):
    for name in ("one", "two"):
        (here / name).mkdir()
        (here / name / "same_name.py").write_text(f"def f(completions): return {name!r}\n")
    assert [load_function(f"{name}/same_name.py:f")([]) for name in ("one", "two")] == [
        "one",
        "two",
    ]


def test_a_file_in_a_package_can_import_its_neighbours(here):
    inner = here / "lib/my_package/inner"
    inner.mkdir(parents=True)
    for folder in (inner, inner.parent):
        (folder / "__init__.py").write_text("")
    (inner.parent / "shared_part.py").write_text("VALUE = 3.0\n")
    (inner / "judge_part.py").write_text(
        "from ..shared_part import VALUE\ndef f(completions): return [VALUE]\n"
    )
    assert load_function("lib/my_package/inner/judge_part.py:f")([]) == [3.0]
    assert "my_package.inner.judge_part" in sys.modules


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("my_rewards.py:x", "my_rewards.py:x: my_rewards.py has no function x (it has: brevity)"),
        (
            "broken_rewards.py:f",
            "broken_rewards.py:f: importing it failed: ValueError: math domain error "
            "(broken_rewards.py:3)",
        ),
        (
            "sub:dir/my_rewards.py:f",
            "sub:dir/my_rewards.py:f: no such file: {here}/sub:dir/my_rewards.py",
        ),
    ],
)
def test_files_that_cannot_be_loaded(here, path, message):
    assert error_of(path) == message.format(here=here)


def test_arguments_are_passed_by_name():
    def brevity(completions, limit, scale=1.0, topic=None):
        return [scale * float(len(text) <= limit) for text in completions]

    def taker(completions, **rest):
        return [float(rest["limit"])] * len(completions)

    prompt = Prompt("a", ({"role": "user", "content": "x"},), (1,), columns={"scale": 100.0})
    rollouts = [Rollout(prompt, text, (7,), (-0.1,), "stop") for text in ("ab", "abcdef")]
    rewards = [
        build_reward(brevity, arguments={"limit": 3, "scale": 2.0}),
        build_reward(taker, arguments={"limit": 4}),
    ]
    check_columns(rewards, ["scale"])  # `limit` is given
    done = score(rollouts, rewards)
    assert [one.breakdown for one in done] == [
        {"brevity": 2.0, "taker": 4.0},
        {"brevity": 0.0, "taker": 4.0},
    ]
    for arguments, message in (
        ({"limt": 3}, "reward brevity takes no argument `limt` (it takes: limit, scale, topic)"),
        (
            {"completions": []},
            "reward brevity: `completions` is given by the run; take it out of arguments",
        ),
        (
            {"log_metric": 1},
            "reward brevity: `log_metric` is given by the run; take it out of arguments",
        ),
    ):
        with pytest.raises(InputError) as caught:
            build_reward(brevity, arguments=arguments)
        assert str(caught.value) == message


def test_objects_are_functions_too():
    class Limit:
        def __init__(self, limit):
            self.limit = limit

        def __call__(self, completions):
            return [float(len(text) <= self.limit) for text in completions]

    prompt = Prompt("a", ({"role": "user", "content": "x"},), (1,))
    rollouts = [Rollout(prompt, text, (7,), (-0.1,), "stop") for text in ("ab", "abcdef")]
    [one, other] = score(rollouts, [build_reward(Limit(3)), build_reward(Limit(9), name="nine")])
    assert one.breakdown == {"Limit": 1.0, "nine": 1.0}
    assert other.breakdown == {"Limit": 0.0, "nine": 1.0}
