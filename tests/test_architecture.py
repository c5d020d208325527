"""What keeps the code small and its parts apart (docs/design.md); none of it looks at behaviour."""

import ast
import importlib
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import uniapl
from uniapl.config import load_config, packaged_configs

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src/uniapl"
MODULES = sorted(PACKAGE.rglob("*.py"))
IDS = [str(path.relative_to(PACKAGE)) for path in MODULES]

MAX_FILE_LINES = 450
MAX_FUNCTION_LINES = 60
MAX_ARGUMENTS = 8
MAX_LOOP_LINES = 1500

READ_A_CONFIG = {
    *("commands", "comparing", "config", "discriminators", "evaluation", "planning", "runs"),
    "training",
}
"""Rooms that may; the stages receive plain values."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(path: Path) -> Iterator[Function]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, Function):
            yield node


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_a_module_is_short_and_says_what_it_is_for(path: Path):
    text = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text)), "needs a docstring"
    assert len(text.splitlines()) <= MAX_FILE_LINES, "split it by meaning"
    assert path.name != "utils.py"


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_functions_are_short_and_take_few_arguments(path: Path):
    for function in functions(path):
        where = f"{path.name}:{function.lineno} {function.name}"
        lines = (function.end_lineno or function.lineno) - function.lineno + 1
        assert lines <= MAX_FUNCTION_LINES, f"{where} has {lines} lines"
        signature = function.args
        names = [*signature.posonlyargs, *signature.args, *signature.kwonlyargs]
        count = sum(name.arg not in ("self", "cls") for name in names)
        assert count <= MAX_ARGUMENTS, f"{where} takes {count} arguments"


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_what_windows_lacks_is_imported_where_it_is_used(path: Path):
    top = ast.parse(path.read_text(encoding="utf-8")).body
    imported = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in top if isinstance(node, ast.ImportFrom) and node.module}
    assert not imported & {"curses", "fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"}


def test_every_folder_is_a_package():
    for folder in {path.parent for path in MODULES}:
        assert (folder / "__init__.py").is_file(), folder


def test_import_contracts_hold():
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from importlinter.cli import lint_imports_command; "
         "sys.argv = ['lint-imports', '--no-cache']; lint_imports_command()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_every_stage_is_under_the_config_contract():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ]
    (sources,) = [
        set(contract["source_modules"]) for contract in contracts if contract["id"] == "config"
    ]
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert sources == {f"uniapl.{stage}" for stage in folders - READ_A_CONFIG}


def test_every_room_is_in_the_layers():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ]
    (layers,) = [contract["layers"] for contract in contracts if contract["id"] == "layers"]
    named = {room.strip() for layer in layers for room in layer.split("|")}
    there = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    files = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert named == there | files


def test_the_loop_stays_small_enough_to_read():
    """Players, step, update: what grows belongs into another room."""
    sizes = [len(path.read_text().splitlines()) for path in (PACKAGE / "training").glob("*.py")]
    assert sum(sizes) <= MAX_LOOP_LINES


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import uniapl", ["torch", "transformers", "pydantic", "numpy"]),
        (
            "from uniapl.cli import main; main(['--help'])",
            ["torch", "transformers", "pydantic", "numpy"],
        ),
        (
            "from uniapl.cli import main; main(['config', 'show', 'miniature'])",
            ["torch", "transformers"],
        ),
        ("import uniapl.report", ["torch", "transformers"]),
        ("import uniapl.instructions", ["torch", "transformers"]),
        ("import uniapl.experts", ["torch", "transformers", "openai"]),
    ],
)
def test_what_an_import_leaves_out(statement: str, unwanted: list[str]):
    code = f"{statement}\nimport sys\nprint('LOADED', sorted(set({unwanted}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1:] == ["LOADED []"], done.stdout + done.stderr


def test_help_starts_fast():
    def cpu_seconds(*words: str) -> float:
        before = os.times()
        subprocess.run([sys.executable, *words], capture_output=True, check=True, timeout=120)
        after = os.times()
        return (
            after.children_user
            + after.children_system
            - before.children_user
            - before.children_system
        )

    # CPU time, best of three: a busy machine does not count.
    taken = min(cpu_seconds("-m", "uniapl.cli", "--help") for _ in range(3))
    assert taken < 0.5


def test_public_names_are_sorted_and_exist():
    assert uniapl.__all__ == sorted(uniapl.__all__)
    for name in uniapl.__all__:
        assert getattr(uniapl, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = uniapl.nonsense


@pytest.mark.parametrize("path", [path for path in MODULES if path.name == "__init__.py"], ids=str)
def test_names_in_all_exist(path: Path):
    name = ".".join(path.relative_to(PACKAGE.parent).parent.parts)
    module = importlib.import_module(name)
    for exported in getattr(module, "__all__", []):
        assert hasattr(module, exported), f"{name}.{exported}"


def test_every_packaged_config_loads():
    files = sorted(path for path in (PACKAGE / "configs").rglob("*") if path.is_file())
    assert files
    assert all(path.suffix == ".yaml" for path in files)
    assert set(packaged_configs().values()) == set(files)
    for path in files:
        config = load_config(path)
        assert config == load_config(path.stem)


def test_the_miniature_finds_its_files_and_functions():
    config = load_config("miniature")
    for path in (
        config.model.path,
        config.data.demonstrations,
        config.data.prompts,
        config.evaluation.prompts,
    ):
        assert path is not None
        assert Path(path).exists(), path
    for function in config.evaluation.metrics:
        module, _, name = function.partition(":")
        assert callable(getattr(importlib.import_module(module), name)), function


def test_configs_in_the_root_are_the_packaged_ones():
    assert (ROOT / "configs").resolve() == PACKAGE / "configs"
