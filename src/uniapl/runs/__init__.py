"""A run: `train(config)` makes one run folder, which a killed run goes on from."""

from uniapl.runs.run import train

__all__ = ["train"]
