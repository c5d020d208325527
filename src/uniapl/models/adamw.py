"""The optimiser of the policy and of a discriminator that learns."""

from collections.abc import Sequence

import torch
from torch import nn

BETAS = (0.9, 0.95)
"""Decay of the gradient's mean and of its square; .95 as language models are trained."""


def adamw(parameters: Sequence[nn.Parameter], weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW on parameters; whoever takes a step sets its learning rate first."""
    return torch.optim.AdamW(parameters, lr=0.0, betas=BETAS, weight_decay=weight_decay, fused=True)
