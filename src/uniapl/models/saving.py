"""Files of saved models that others may read as far as the user lets them read other files."""

import tempfile
from pathlib import Path

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
