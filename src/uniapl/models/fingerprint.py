"""What tells a model from another one by its weights, wherever its files lie and however they are called."""

import hashlib
from collections.abc import Collection

import torch
from torch import nn

from uniapl.distributed.sharding import whole

SAMPLED = 1024
"""Numbers that are read of a tensor: all of a smaller one."""


@torch.no_grad()
def weights_fingerprint(model: nn.Module, left_out: Collection[nn.Parameter] = ()) -> str:
    """Return what changes with a model's weights.

    Evenly spaced numbers of each tensor count, so that a large model costs no pass over it; training moves nearly all
    of them, and so does whatever else makes one model of another.

    Args:
        model: On any device; collective where its weights are shared out.
        left_out: Parameters that do not count, such as an adapter's.
    """
    ignored = set(map(id, left_out))
    found = hashlib.sha256()
    for parameter in model.parameters():
        if id(parameter) in ignored:
            continue
        flat = whole(parameter.detach()).reshape(-1)
        sampled = flat[:: max(1, flat.numel() // SAMPLED)]
        found.update(repr((tuple(parameter.shape), str(parameter.dtype))).encode())
        found.update(sampled.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
