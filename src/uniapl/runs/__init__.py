"""A run: `train(config)` makes one run folder, which a killed run goes on from."""

from uniapl.runs.preview import preview
from uniapl.runs.result import Run
from uniapl.runs.run import train

__all__ = ["Run", "preview", "train"]
