import sys

import pytest

from uniapl.errors import InputError
from uniapl.rewards import load_function


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
        ("my_rewards", "my_rewards: a function is written module:function"),
        (":f", ":f: a function is written module:function"),
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
