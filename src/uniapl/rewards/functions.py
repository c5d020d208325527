"""`module:function` → the function; for rewards and for evaluation metrics alike."""

import importlib
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
        path: `module:function`, such as `my_rewards:brevity` or `package.module:function`.

    Raises:
        InputError: there is no such module or function, or the module fails while it is imported.
    """
    module_name, colon, name = path.partition(":")
    if not (colon and module_name and name):
        raise InputError(f"{path}: a function is written module:function")
    module = _import(module_name, path)
    function = getattr(module, name, None)
    if function is None:
        raise InputError(
            f"{path}: {module_name} has no function {name}{_alternatives(module, name)}"
        )
    if not callable(function):
        raise InputError(f"{path}: {name} is not a function but {type(function).__name__}")
    return function


def describe_error(error: BaseException, source: str | None = None) -> str:
    """Return type, message and place of an exception, as one line.

    Args:
        source: Prefer the innermost place in this file to one inside a library it calls.
    """
    message = " ".join(str(error).split())
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
