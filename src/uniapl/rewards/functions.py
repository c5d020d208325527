"""`module:function` or `FILE.py:function` → the function; for rewards and for evaluation metrics alike."""

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from uniapl.errors import InputError


def load_function(path: str) -> Callable[..., Any]:
    """Import a function; modules in the current directory are found too.

    Args:
        path: `module:function`, such as `my_rewards:brevity` or `package.module:function`; or `FILE.py:function`.

    Raises:
        InputError: There is no such module, file or function, or the module fails while it is imported.
    """
    source, colon, name = path.rpartition(":")
    if not (colon and source and name):
        raise InputError(f"{path}: a function is written module:function or FILE.py:function")
    if source.endswith(".py"):
        module = _import_file(Path(source).expanduser().absolute(), path)
    else:
        module = _import(source, path)
    function = getattr(module, name, None)
    if function is None:
        raise InputError(
            f"{path}: {Path(source).name} has no function {name}{_alternatives(module, name)}"
        )
    if not callable(function):
        raise InputError(f"{path}: {name} is not a function but {type(function).__name__}")
    return function


def describe_error(error: BaseException, source: str | None = None) -> str:
    """Return type, message and place of an exception, as one line.

    Args:
        source: Prefer the innermost place in this file to one inside a library it calls.
    """
    try:
        message = " ".join(str(error).split())
    except Exception:  # an exception of the user's may not even say what it is
        message = ""
    if len(message) > 300:
        message = message[:297] + "..."
    frames = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in frames if frame.filename == source] or frames
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}{': ' if message else ''}{message}{place}"


def _import(module_name: str, path: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        # installed commands, unlike `python -m`, do not look here
        sys.path.insert(0, here)
    # a module written since the last look into this directory would not be seen
    importlib.invalidate_caches()
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            files = [file.stem for file in Path.cwd().glob("*.py")]
            close = get_close_matches(module_name, files, n=1)
            hint = (
                f"; did you mean {close[0]}?"
                if close
                else f"; it is neither in {here} nor installed"
            )
            raise InputError(f"{path}: no module {error.name}{hint}") from error
        raise InputError(f"{path}: importing it failed: {describe_error(error)}") from error
    except Exception as error:  # the user's module may raise anything
        raise InputError(f"{path}: importing it failed: {describe_error(error)}") from error


def _import_file(file: Path, path: str) -> ModuleType:
    """Import a file: as a part of its package where it is in one, so that it can import its neighbours.

    Its folder comes last among those where modules are looked for: nothing installed is hidden by what lies there.
    """
    if not file.is_file():
        raise InputError(f"{path}: no such file: {file}")
    folder, parts = file.parent, [file.stem] if file.stem != "__init__" else []
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    name = ".".join(parts)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    importlib.invalidate_caches()
    try:
        spec = importlib.util.find_spec(name)
        origin = Path(spec.origin) if spec is not None and spec.origin is not None else None
        # `time` has no file, and that of a module imported before may be gone
        if origin is not None and origin.is_file() and origin.samefile(file):
            return importlib.import_module(name)
        return _import_as(str(file), file)
    except Exception as error:  # as above
        raise InputError(f"{path}: importing it failed: {describe_error(error)}") from error


def _import_as(name: str, file: Path) -> ModuleType:
    """Import a file whose own name another module has."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _alternatives(module: ModuleType, name: str) -> str:
    functions = [
        other
        for other, value in vars(module).items()
        if not other.startswith("_") and inspect.isroutine(value)
    ]
    close = get_close_matches(name, functions, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f" (it has: {', '.join(functions[:8]) or 'none'})"
