"""From a YAML file or a dictionary and `key=value` words to a `Config`, and back to YAML.

Everything that is wrong is reported at once, one line each, in a single `InputError`.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from uniapl.config.checks import keys_without_effect
from uniapl.config.keys import section_of
from uniapl.config.problems import describe_problems, did_you_mean
from uniapl.config.recipe import Recipe
from uniapl.config.schema import Config, SourceConfig
from uniapl.config.strict_yaml import dump_yaml, load_word, load_yaml
from uniapl.errors import InputError

_PATH_KEYS = (
    "output_dir",
    "model.path",
    "data.demonstrations",
    "data.prompts",
    "data.pairs",
    "discriminator.path",
    "training.resume",
    "evaluation.prompts",
    "evaluation.validation_prompts",
)
"""Keys whose value may be a local file or folder; `path` of a reward is one more."""

_RELATIVE = ("./", "../")

_ARGUMENTS = "arguments"
"""The key whose value goes to the user's own function as it is written, lists as lists."""

ConfigSource = str | Path | Mapping[str, Any] | Config
"""What a config is made of: a YAML file, the name of a packaged one, a dictionary of its sections, or a config."""


def load_config(source: ConfigSource, overrides: Sequence[str] = ()) -> Config:
    """Read a config and apply overrides to it.

    Args:
        source: A YAML file, the name of a packaged config (`miniature`), a dictionary with the same keys, or a
            config. File and folder names in a file that begin with `./` or `../` are relative to it; all others to
            the working directory. Functions are looked for beside the file first.
        overrides: Words `section.key=value`, the value in YAML; later words win. Lists are replaced whole
            (`evaluation.metrics=[a:b]`) or changed in one entry (`rewards.0.weight=2`).

    Raises:
        InputError: Names every problem of file and overrides, one line each.
    """
    if isinstance(source, Config):
        if not overrides:
            return source
        source = source.model_dump(mode="json", exclude_unset=True)
    if isinstance(overrides, str):
        raise InputError(f"overrides: must be a list of key=value words, got '{overrides}'")
    if isinstance(source, Mapping):
        name, folder = "config", Path.cwd()
        data = cast("dict[str, Any]", _plain(source))
    else:
        name = _file_name(source)
        data, folder = _read_file(name)
    _anchor_paths(data, folder)
    _anchor_functions(data, folder, is_in_file=True)
    problems: list[str] = []
    applied: list[str] = []
    for word in overrides:
        try:
            _apply(data, word)
            applied.append(word)
        except InputError as error:
            problems.append(str(error))
    _anchor_functions(data, folder, is_in_file=False)
    problems += _misplaced(data, folder, overridden_keys(applied))
    config = None
    try:
        config = Config.model_validate(data := _as_schema_types(data), strict=True)
    except ValidationError as error:
        problems += describe_problems(error, data)
    except RecursionError:
        problems.append("a value holds itself, or is nested too deeply")
    if config is None or problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise InputError(f"{name}: {len(problems)} problem(s){lines}")
    return config


def _file_name(source: object) -> str:
    if isinstance(source, (str, Path)):
        return str(source)
    kind = type(source).__name__
    raise InputError(f"config: must be a file, a name, a dictionary or a Config, got {kind}")


def _read_file(name: str) -> tuple[dict[str, Any], Path]:
    """Return what a YAML file says, and the folder that it lies in."""
    file = _find(name)
    content = load_yaml(_read(file), name)
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise InputError(f"{name}: must be a mapping of keys, got {type(content).__name__}")
    return cast("dict[str, Any]", content), file.resolve().parent


def _plain(value: Any) -> Any:
    """Return a copy of a Python value as YAML would give it: dictionaries, lists, and paths as text."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value).items()
        return {str(key): _plain(item) for key, item in items}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in cast("Sequence[Any]", value)]
    return str(value) if isinstance(value, Path) else value


def overridden_keys(overrides: Iterable[str]) -> frozenset[str]:
    """Return the dotted keys that override words set, down to single values."""
    keys: set[str] = set()
    for word in overrides:
        key, separator, text = word.partition("=")
        if separator:
            keys.update(_leaves(key, load_yaml(text, key)))
    return frozenset(keys)


def packaged_configs() -> dict[str, Path]:
    """Return name → file of the configs that come with the package."""
    folder = Path(str(resources.files("uniapl") / "configs"))
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def resolved(config: Config) -> Config:
    """Return the config with every local path absolute: it loads the same from any working directory.

    A value that names nothing on this machine stays as it is: it is a hub id.
    """
    changed = config
    for key in _PATH_KEYS:
        value = _get(config, key)
        is_served = key == "discriminator.path" and config.discriminator.servers  # a model's name
        is_word = key == "training.resume" and value in ("never", "auto")
        if value is None or is_word or is_served:
            continue
        is_local = key in ("output_dir", "training.resume")
        changed = _with(changed, key, _with_paths(value, partial(_absolute, is_local=is_local)))
    return _with_functions(changed, _absolute_function, _absolute)


def _with_functions(
    config: Config, change: Callable[[str], str], change_path: Callable[[str], str]
) -> Config:
    """Change the functions of rewards and metrics, and the paths of reward models."""
    rewards = tuple(
        reward.model_copy(
            update={"function": change(reward.function)}
            | ({"path": change_path(reward.path)} if reward.path else {})
        )
        for reward in config.rewards
    )
    if rewards:
        config = config.model_copy(update={"rewards": rewards})
    if metrics := tuple(map(change, config.evaluation.metrics)):
        evaluation = config.evaluation.model_copy(update={"metrics": metrics})
        config = config.model_copy(update={"evaluation": evaluation})
    return config


def _absolute_function(value: str) -> str:
    source, _, name = value.rpartition(":")
    return f"{Path(source).expanduser().absolute()}:{name}" if source.endswith(".py") else value


def _absolute(value: str, *, is_local: bool = False) -> str:
    is_local = is_local or value.startswith((*_RELATIVE, "~/")) or _exists(value)
    return str(Path(os.path.expanduser(value)).absolute()) if is_local else value


def _exists(path: str | Path) -> bool:
    """Return whether a file or folder is there; a name that cannot be one is not, and is refused where it is read."""
    try:
        return Path(os.path.expanduser(path)).exists()
    except OSError:  # such as a name that is too long
        return False


def dump_config(config: Config) -> str:
    """Return YAML that loads back equal: every key, but for those that another option switches off."""
    data = config.model_dump(mode="json")
    left_out = list(keys_without_effect(config, explicit_only=False))
    if Recipe.of(config).config.discriminator.form != config.discriminator.form:
        left_out.append("discriminator.form")  # the method will choose it
    for key in left_out:
        *parents, name = key.split(".")
        section: Any = data
        for parent in parents:
            section = section[int(parent) if parent.isdecimal() else parent]
        del section[name]
    return dump_yaml(data)


def dump_published(config: Config) -> str:
    """Return YAML for other people: files by name, without this machine's folders and the run's own."""
    for key in _PATH_KEYS:
        config = _with(config, key, _with_paths(_get(config, key), _published))
    config = _with_functions(config, _published_function, _published)
    data = cast("dict[str, Any]", load_yaml(dump_config(config), "the config"))
    del data["output_dir"], data["training"]["resume"]
    return dump_yaml(data)


def _published(value: str) -> str:
    return Path(value).name if Path(value).is_absolute() or _exists(value) else value


def _published_function(value: str) -> str:
    source, _, name = value.rpartition(":")
    return f"{Path(source).name}:{name}" if source.endswith(".py") else value


def _with_paths(value: Any, change: Callable[[str], str]) -> Any:
    """Return a key's value with its path changed, or the paths of all sources in its list."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, SourceConfig):
        return value.model_copy(update={"path": change(value.path)})
    if isinstance(value, (list, tuple)):
        entries = [_with_paths(entry, change) for entry in cast("Iterable[Any]", value)]
        return tuple(entries) if isinstance(value, tuple) else entries
    if isinstance(value, dict):
        entry = cast("dict[str, Any]", value)
        return entry | {key: _with_paths(entry[key], change) for key in ("path",) if key in entry}
    return value


def dump_chosen(config: Config) -> str:
    """Return YAML of the keys that file and overrides set, no defaults.

    Other methods may be asked of it: a default that was written out would read as a choice that this
    or that method refuses.
    """
    return dump_yaml(config.model_dump(mode="json", exclude_unset=True))


def _find(path: str | Path) -> Path:
    packaged = packaged_configs()
    file = Path(path).expanduser()
    if file.is_file():
        return file
    if str(path) in packaged:
        return packaged[str(path)]
    if (file / "config.yaml").is_file():
        raise InputError(f"{path}: is a folder{did_you_mean([str(file / 'config.yaml')])}")
    if file.is_dir():
        raise InputError(f"{path}: is a folder, not a YAML file")
    nearby = [str(other) for other in file.parent.glob("*.y*ml")] if file.parent.is_dir() else []
    close = get_close_matches(str(path), [*packaged, *nearby], n=1)
    names = ", ".join(packaged)
    raise InputError(f"{path}: no such file{did_you_mean(close)} (packaged configs: {names})")


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{file}: is not UTF-8 text") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None


def _anchor_paths(data: dict[str, Any], folder: Path) -> None:
    """Make paths that are relative to the file absolute, in place."""
    for _, section, name in _places(data):
        section[name] = _with_paths(section[name], partial(_anchored, folder))


def _places(data: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield key, section and name of what the file says about files and folders."""
    rewards = data.get("rewards")
    entries = cast("list[Any]", rewards) if isinstance(rewards, list) else []
    places = [(f"rewards.{index}.path", entry, "path") for index, entry in enumerate(entries)]
    for key in _PATH_KEYS:
        section, _, name = key.rpartition(".")
        places.append((key, data.get(section) if section else data, name))
    for key, values, name in places:
        if isinstance(values, dict) and name in values:
            yield key, cast("dict[str, Any]", values), name


def _misplaced(data: dict[str, Any], folder: Path, overridden: Iterable[str]) -> list[str]:
    """Return a line per path of the file that lies beside it and not in the working directory."""
    lines: list[str] = []
    for key, section, name in _places(data):
        is_output = key in ("output_dir", "training.resume", "evaluation.before")
        if is_output or any(f"{word}.".startswith(f"{key}.") for word in overridden):
            continue
        paths: list[str] = []
        _with_paths(section[name], lambda path, paths=paths: paths.append(path) or path)
        lines += [
            f"{key}: no such file here: {path}; did you mean ./{path}, which is beside the config?"
            for path in paths
            if path.strip() and not _exists(path) and _exists(folder / path)
        ]
    return lines


def _anchored(folder: Path, value: str) -> str:
    return str((folder / value).resolve()) if value.startswith(_RELATIVE) else value


def _anchor_functions(data: dict[str, Any], folder: Path, *, is_in_file: bool) -> None:
    """Replace the functions of rewards and metrics that are found in a folder by absolute files, in place.

    Args:
        data: The config's content.
        folder: The config file's.
        is_in_file: The content stands in that file; else in overrides, where the working directory goes first.
    """
    rewards, section = data.get("rewards"), data.get("evaluation")
    for entry in cast("list[Any]", rewards) if isinstance(rewards, list) else []:
        if isinstance(entry, dict) and "function" in entry:
            values = cast("dict[str, Any]", entry)
            values["function"] = _anchored_function(values["function"], folder, is_in_file)
    metrics = cast("dict[str, Any]", section).get("metrics") if isinstance(section, dict) else None
    if isinstance(metrics, list):
        entries = cast("list[Any]", metrics)
        entries[:] = [_anchored_function(entry, folder, is_in_file) for entry in entries]


def _anchored_function(value: Any, folder: Path, is_in_file: bool) -> Any:
    source, _, name = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if not source:
        return value
    if is_in_file and source.endswith(".py") and source.startswith(_RELATIVE):
        return f"{(folder / source).resolve()}:{name}"
    here, there = function_file(source, Path()), function_file(source, folder)
    # of a file without `./` in the config, the working directory's goes first, as for all paths
    is_here = here is not None and (not is_in_file or source.endswith(".py"))
    return value if is_here or there is None else f"{there}:{name}"


def function_file(source: str, folder: Path) -> Path | None:
    """Return the file of a function's `module` or `FILE.py` that is found from a folder, None if there is none."""
    if source.endswith(".py"):
        files = [folder / Path(source).expanduser()]
    else:
        module = folder.joinpath(*source.split("."))
        files = [module.with_name(f"{module.name}.py"), module / "__init__.py"]
    return next((file.absolute() for file in files if file.is_file()), None)


def _apply(data: dict[str, Any], word: str) -> None:
    """Write one override into `data`."""
    key, separator, text = word.partition("=")
    if not separator or not key:
        raise InputError(f"'{word}': an override is written key=value")
    value = load_word(key, text, f"'{word}'")
    *parents, name = key.split(".")
    target: Any = data
    for depth, part in enumerate(parents):
        target = _below(target, part, key, parents[:depth])
    if isinstance(target, list):
        entries = cast("list[Any]", target)
        entries[_index(entries, name, key, parents)] = value
    elif isinstance(target, dict):
        section = cast("dict[str, Any]", target)
        section[name] = _merged(section.get(name), value)
    else:
        raise InputError(f"{key}: unknown key; {'.'.join(parents)} has no keys below it")


def _below(target: Any, part: str, key: str, path: list[str]) -> Any:
    """Return the section or list at `part`, created where the file left it out."""
    if isinstance(target, list):
        entries = cast("list[Any]", target)
        return entries[_index(entries, part, key, path)]
    if not isinstance(target, dict):
        raise InputError(f"{key}: unknown key; {'.'.join(path)} has no keys below it")
    section = cast("dict[str, Any]", target)
    if section.get(part) is None:
        defaults = Config.model_fields["rewards"].default if part == "rewards" else ()
        section[part] = [reward.model_dump(exclude_unset=True) for reward in defaults] or {}
    return section[part]


def _index(entries: list[Any], part: str, key: str, path: list[str]) -> int:
    if not part.isdecimal() or int(part) >= len(entries):
        counted = f"{'.'.join(path)} has {len(entries)}, numbered from 0"
        raise InputError(f"{key}: no such entry; {counted}")
    return int(part)


def _merged(old: Any, new: Any) -> Any:
    """Merge mappings, so that `data={prompts: x}` leaves the section's other keys."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    merged = dict(cast("dict[str, Any]", old))
    for key, value in cast("dict[str, Any]", new).items():
        merged[key] = _merged(merged.get(key), value)
    return merged


def _as_schema_types(data: dict[str, Any]) -> dict[str, Any]:
    """Lists become the tuples that the schema asks for; `rollout:` with nothing below it is empty."""
    sections = {name for name, field in Config.model_fields.items() if section_of(field.annotation)}
    return {
        key: {} if value is None and key in sections else _with_tuples(value)
        for key, value in data.items()
    }


def _with_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return {key: item if key == _ARGUMENTS else _with_tuples(item) for key, item in items}
    if isinstance(value, list):
        return tuple(_with_tuples(item) for item in cast("list[Any]", value))
    return value


def _leaves(key: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict) and value:
        for name, item in cast("dict[str, Any]", value).items():
            yield from _leaves(f"{key}.{name}", item)
    else:
        yield key


def _get(config: Config, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _with(config: Config, key: str, value: Any) -> Config:
    section, _, name = key.rpartition(".")
    if not section:
        return config.model_copy(update={name: value})
    inner = getattr(config, section).model_copy(update={name: value})
    return config.model_copy(update={section: inner})
