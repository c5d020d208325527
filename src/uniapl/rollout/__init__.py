"""Sampling completions from the policy: prompts in, rollouts with their sampling log-probs out."""

from uniapl.rollout.transformers_generator import TransformersGenerator

__all__ = ["TransformersGenerator"]
