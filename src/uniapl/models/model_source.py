"""Where a model lies: a folder, a run's folder, an adapter's, or a name on the Hugging Face hub.

A path that is not here is taken for a name on the hub only where it can be one, and the user is told so. The hub is
asked once, with a time limit; transformers by itself asks for every file, and repeats that for a minute where there
is no network.
"""

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
)

CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"
HUB_SECONDS = 8
"""How long the hub may take to say whether it has a model."""
_POINTER = b"version https://git-lfs"
_WEIGHTS = (".safetensors", ".bin")


@dataclass(frozen=True, slots=True)
class ModelSource:
    """What `from_pretrained` is given."""

    place: str
    """A folder, or a name on the hub."""
    is_adapter: bool = False
    """Whether it is a folder with an adapter for another model."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further arguments: whether the hub may be asked."""


def is_missing(path: str) -> bool:
    """Whether there is nothing at a path; what may not be looked at is not missing."""
    try:
        Path(path).expanduser().stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def find_model(path: str) -> ModelSource:
    """Find a model; of a run's folder (or a checkpoint's) its policy.

    Raises:
        ValueError: There is none, or what is there cannot be a model's folder; the message says why and what to do.
        PermissionError: It may not be read.
    """
    if not is_missing(path):
        return _in_folder(Path(path).expanduser())
    if _is_path(path):
        raise ValueError(f"check the path; a relative one starts from {Path.cwd()}")
    return _on_hub(path)


def _in_folder(folder: Path) -> ModelSource:
    if not folder.is_dir():
        raise ValueError(f"it is a file; give the folder that holds {CONFIG}, or a GGUF file")
    files = sorted(folder.iterdir())
    names = {file.name for file in files}
    if CONFIG not in names and "policy" in names:
        return _in_folder(folder / "policy")
    if CONFIG not in names and "config.yaml" in names:
        raise ValueError(
            "the run has no policy/ yet; give a checkpoint's, "
            f"{folder / 'checkpoints' / 'step_*' / 'policy'}"
        )
    _check_files(files)
    is_adapter = ADAPTER_CONFIG in names
    if is_adapter and _has_weights(names):
        raise ValueError(
            "it holds a model and an adapter; put the adapter into a folder of its own"
        )
    return ModelSource(str(folder), is_adapter)


def _has_weights(names: Iterable[str]) -> bool:
    return any(
        name.startswith(("model", "pytorch_model")) and name.endswith(_WEIGHTS) for name in names
    )


def _check_files(files: Iterable[Path]) -> None:
    for file in files:
        if not file.is_file():
            continue
        if not os.access(file, os.R_OK):  # safetensors would say that there is no such file
            raise PermissionError(f"permission denied: {file.name} may not be read")
        with file.open("rb") as stream:
            if stream.read(len(_POINTER)) == _POINTER:
                raise ValueError(
                    f"{file.name} is a Git LFS pointer and not the file itself; run `git lfs pull` there"
                )


def _is_path(path: str) -> bool:
    """Whether it cannot be a name on the hub, `model` or `owner/model`."""
    return path.startswith((".", "/", "~")) or path.count("/") > 1 or "\\" in path or not path


def _on_hub(name: str) -> ModelSource:
    is_kept = isinstance(try_to_load_from_cache(name, CONFIG), str)
    if constants.is_offline_mode():
        if not is_kept:
            raise ValueError(
                "nor has it been downloaded, and HF_HUB_OFFLINE forbids asking the hub; check the "
                f"path (it starts from {Path.cwd()}) or download it first"
            )
        return _told(name, {"local_files_only": True})
    try:
        files = HfApi().model_info(name, timeout=HUB_SECONDS).siblings or []
    except GatedRepoError as error:
        raise ValueError(
            "the hub gives it only to those who accepted its terms; accept them and log in with "
            "`hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            "nor does the hub have it, or it is private; check the name, or log in with `hf auth login`"
        ) from error
    except HFValidationError as error:
        raise ValueError("nor can it be a name on the hub; check the path") from error
    except (
        HfHubHTTPError
    ):  # the hub, or a mirror of it, answers; from_pretrained sees what it gives
        return _told(name, {})
    # no connection: whatever the HTTP library of the day raises
    except Exception as error:
        if not is_kept:
            raise ValueError(
                f"nor has it been downloaded, and the hub ({constants.ENDPOINT}) does not answer; "
                f"check the path (it starts from {Path.cwd()}) or the network"
            ) from error
        return _told(name, {"local_files_only": True})
    names = {file.rfilename for file in files}
    if ADAPTER_CONFIG in names and CONFIG not in names:
        raise ValueError(
            f"on the hub it is an adapter; run `hf download {name} --local-dir FOLDER` and give FOLDER"
        )
    return _told(name, {})


def _told(name: str, options: dict[str, Any]) -> ModelSource:
    how = " as it was downloaded before" if options else ""
    sys.stderr.write(f"note: no folder {name!r} here; taking that model of the hub{how}\n")
    return ModelSource(name, options=options)
