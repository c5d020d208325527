"""Where models live."""

import torch

from uniapl.errors import InputError


def find_device(wanted: str = "auto") -> torch.device:
    """Return a device of this machine.

    Args:
        wanted: `cpu`, `cuda`, `cuda:1`, or `auto`: the first CUDA device if there is one.

    Raises:
        InputError: There is no such device.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "cpu" or (wanted == "auto" and not count):
        return torch.device("cpu")
    device = torch.device("cuda" if wanted == "auto" else wanted)
    if (device.index or 0) >= count:
        raise InputError(f"training.device: there is no {wanted} here ({count} CUDA devices)")
    return device
