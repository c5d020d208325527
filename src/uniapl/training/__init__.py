"""The single-stage loop: `train(config)` makes one run folder."""

from uniapl.training.run import train

__all__ = ["train"]
