"""What a completion is worth: reward functions with TRL's signature, called once per batch of rollouts.

Example:
    rewards = build_rewards([{"function": "instructions"}, {"function": "mine:brevity", "weight": 0.1}])
    for reward in score(rollouts, rewards):
        print(reward.total, reward.breakdown)
"""

from uniapl.rewards.build import (
    build_reward,
    build_rewards,
    check_columns,
    check_names,
    column_names,
)
from uniapl.rewards.calls import NamedReward
from uniapl.rewards.context import TrainerState
from uniapl.rewards.functions import load_function
from uniapl.rewards.instructions import instruction_reward
from uniapl.rewards.model import model_reward
from uniapl.rewards.scoring import score

__all__ = [
    "NamedReward",
    "TrainerState",
    "build_reward",
    "build_rewards",
    "check_columns",
    "check_names",
    "column_names",
    "instruction_reward",
    "load_function",
    "model_reward",
    "score",
]
