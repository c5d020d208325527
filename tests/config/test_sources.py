"""Lists of sources in `data.demonstrations` and `data.prompts`, and the user's names of columns."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from uniapl.config import load_config
from uniapl.config.loading import dump_config, dump_published, resolved
from uniapl.config.schema import SourceConfig
from uniapl.errors import InputError

CONFIG = """\
output_dir: runs/test
model: {{path: some/model}}
data: {data}
training: {{steps: 4}}
"""


def problems(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        load_config(path, overrides)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def test_a_list_of_sources(write: Callable[[str], Path], tmp_path: Path):
    data = (
        "{demonstrations: [./a.jsonl, owner/name/main:test], columns: {prompt: task}, prompts: ["
        "{path: ../b.csv, share: 0.7}, {path: c.json, share: 1, columns: {prompt: text}}]}"
    )
    config = load_config(write(CONFIG.format(data=data)), ["data.prompts.0.share=2"])
    task = {"prompt": "task"}
    assert config.data.sources(config.data.demonstrations) == (
        SourceConfig(path=f"{tmp_path}/a.jsonl", columns=task),
        SourceConfig(path="owner/name/main:test", columns=task),
    )
    assert config.data.prompts is not None
    assert config.data.sources(config.data.prompts) == (
        SourceConfig(path=f"{tmp_path.parent}/b.csv", share=2, columns=task),
        SourceConfig(path="c.json", share=1, columns={"prompt": "text"}),
    )


def test_a_single_source_has_the_sections_columns(minimal: Path):
    config = load_config(minimal, ["data.columns={prompt: task}"])
    [source] = config.data.sources(config.data.demonstrations)
    assert source == SourceConfig(path="d.jsonl", columns={"prompt": "task"})


def test_the_paths_of_a_list_reload_from_anywhere(
    minimal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.jsonl").touch()
    words = ["data.prompts=[a.jsonl, owner/name, {path: ~/c.jsonl}]"]
    config = resolved(load_config(minimal, words))
    assert config.data.prompts == (
        f"{tmp_path}/a.jsonl",
        "owner/name",
        SourceConfig(path=f"{tmp_path}/c.jsonl"),
    )
    dumped = tmp_path / "dumped.yaml"
    dumped.write_text(dump_config(config))
    published = tmp_path / "published.yaml"
    published.write_text(dump_published(config))
    monkeypatch.chdir(os.sep)
    assert resolved(load_config(dumped)) == config
    assert str(tmp_path) not in published.read_text()


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("data.prompts=[]", "data.prompts: must be text or list of text or {path, share, columns} "
         "or null, got []"),
        ("data.prompts=[{pth: a}]", "data.prompts: must be text or list of text or {path, share, "
         "columns} or null, got [{pth: 'a'}]"),
        ("data.prompts=[{path: a, share: 0}, b]", "data.prompts: must be text or list of text or "
         "{path, share, columns} or null, got [{path: 'a', share: 0}, 'b']"),
        ("data.prompts=[{path: a, share: 1}, b]", "data.prompts: give every source a share, or none"),
        ("data.prompts=[a, b, a]", "data.prompts: must not name a source twice: its rows would be "
         "repeated"),
        ("data.prompts=[a, '']", "data.prompts: must not be empty"),
        ("data.demonstrations=", "data.demonstrations: must be text or list of text or {path, share, "
         "columns}, got null"),
        ("data.columns={promt: a}", "data.columns: unknown name promt; did you mean prompt?"),
        ("data.prompts=[{path: a, columns: {compltion: b}}]", "data.prompts.0.columns: unknown name "
         "compltion; did you mean completion?"),
        ("data.columns=[a]", "data.columns: must be a mapping, got ['a']"),
    ],
)  # fmt: skip
def test_wrong_sources_are_one_line(minimal: Path, override: str, line: str):
    assert problems(minimal, override) == [line]


def test_a_path_beside_the_config_is_suggested(
    write: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("d.jsonl", "e.jsonl", "p.jsonl"):
        (tmp_path / name).touch()
    path = write(
        CONFIG.format(data="{demonstrations: [d.jsonl, {path: e.jsonl}], prompts: p.jsonl}")
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    (elsewhere / "e.jsonl").touch()
    meant = "which is beside the config?"
    assert problems(path) == [
        f"data.demonstrations: no such file here: d.jsonl; did you mean ./d.jsonl, {meant}",
        f"data.prompts: no such file here: p.jsonl; did you mean ./p.jsonl, {meant}",
    ]
    # an override is relative to the working directory, whatever lies beside the config
    words = ["data.prompts=p.jsonl", "data.demonstrations.0=e.jsonl", "data.demonstrations.1=f"]
    assert load_config(path, words).data.prompts == "p.jsonl"
    monkeypatch.chdir(tmp_path)
    assert load_config(path).data.prompts == "p.jsonl"


def test_names_that_no_file_can_have_stay_as_they_are(minimal: Path):
    name = "x" * 300
    config = load_config(minimal, [f"data.prompts={name}", "data.demonstrations=~nobody-here/d"])
    assert resolved(config).data.prompts == name
    assert resolved(config).data.demonstrations == "~nobody-here/d"
