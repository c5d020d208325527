"""Files of saved models: written whole or not at all, and as readable for others as the user lets files be."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel

from uniapl.errors import TrainingError, one_line
from uniapl.files import write_folder

_PRIVATE = 0o600
"""The mode of what safetensors writes, whatever the user's umask says."""


def follow_umask(folder: Path) -> None:
    """Give files that only their owner may read the mode that new files have in this process.

    Without it a server of another user cannot open the weights that a run has saved.

    Args:
        folder: Where a model was saved; folders inside are left alone.
    """
    # asking for the umask sets it, for all threads; a new file shows it
    with tempfile.TemporaryDirectory(dir=folder) as place:
        probe = Path(place) / "new"
        probe.touch()
        mode = probe.stat().st_mode & 0o777
    for file in folder.iterdir():
        if file.is_file() and file.stat().st_mode & 0o777 == _PRIVATE:
            file.chmod(mode)


def save_plain(model: PreTrainedModel, folder: Path, dtype: torch.dtype) -> None:
    """Write the weights and the settings of a model, tensor by tensor through the CPU's memory.

    Unlike a save of a converted copy, this takes no memory on the model's device.

    Args:
        model: Without adapters.
        folder: Where to.
        dtype: Number type of the weights in the file.
    """
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    state = {
        name: value.to("cpu", dtype if value.is_floating_point() else value.dtype)
        for name, value in model.state_dict().items()
        if name not in tied
    }
    model.save_pretrained(folder, state_dict=state)
    follow_umask(folder)


def write_model_folder(target: Path, write: Callable[[Path], bool | None]) -> bool:
    """Make a model folder that appears whole; see `files.write_folder`.

    Raises:
        TrainingError: It could not be written, the disk being full for example; nothing is left of it.
    """
    try:
        return write_folder(target, write)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise TrainingError(f"cannot write {target}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """Return the system's reason for a failed write; torch and safetensors wrap it in errors of their own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__context__
    return one_line(error)
