"""Carriers that travel between the stages of a step; read top to bottom they are the data flow.

Everything here is plain Python (no torch), so configuration, instructions and the report can import it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from uniapl.thoughts import divide

INSTRUCTING = ("system", "developer")
"""Roles whose turn is a system prompt."""

Message = Mapping[str, str]
"""One chat turn: `{"role": ..., "content": ...}`."""

FinishReason = Literal["stop", "length"]
"""`stop`: the policy ended its turn; `length`: the token limit cut it off (a truncated completion)."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a completion answers.

    Example:
        Prompt(id="17", messages=({"role": "user", "content": "Write about the sea."},),
               token_ids=(1, 40, 41, 2), columns={"instruction_id_list": ["punctuation:no_comma"]})
    """

    id: str
    """Unique within its data: the row's `key` or `id`, else its line number; of several sources `source:id`."""
    messages: tuple[Message, ...]
    token_ids: tuple[int, ...]
    """The chat template's rendering, generation prompt included."""
    is_conversational: bool = False
    """True if the data gave messages: reward functions then receive messages, else strings."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Every further column of the row; reward functions and metrics receive them by name."""

    @property
    def text(self) -> str:
        """The last user turn."""
        return self.messages[-1]["content"]


@dataclass(frozen=True, slots=True)
class Demonstration:
    """An expert's completion of a prompt."""

    prompt: Prompt
    completion: str
    token_ids: tuple[int, ...]
    """The completion's tokens, end-of-turn token included."""


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two completions of a prompt, of which somebody preferred one."""

    prompt: Prompt
    chosen: str
    rejected: str
    chosen_ids: tuple[int, ...] = ()
    """Tokens, end-of-turn token included; none where no tokenizer has read the pair, as in its prompt."""
    rejected_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class MixedBatch:
    """The data of one step: what the expert showed and what can be compared."""

    demonstrations: tuple[Demonstration, ...]
    prompts: tuple[Prompt, ...]
    """Preference prompts: rolled out and rewarded."""
    pairs: tuple[PreferencePair, ...] = ()
    """Chosen and rejected completions: for the policy (DPO) and for a `scalar` discriminator."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """A completion the policy sampled."""

    prompt: Prompt
    completion: str
    """The decoded text, without the end-of-turn token."""
    token_ids: tuple[int, ...]
    """The sampled tokens, the end-of-turn token included when `finish_reason` is `stop`."""
    sampling_logprobs: tuple[float, ...]
    """Nats per token, as the generator computed them while sampling."""
    finish_reason: FinishReason
    begins_thinking: bool = False
    """Whether the prompt ends with `<think>`, so that the completion begins inside a thought."""
    is_expert: bool = False
    """Whether this is the expert's completion in the place of a sample: the policy did not say it."""

    @property
    def is_truncated(self) -> bool:
        """Whether the token limit cut the completion off."""
        return self.finish_reason == "length"

    @property
    def answer(self) -> str:
        """The completion without its thoughts; blank if they never end."""
        return divide(self.completion, begins_thinking=self.begins_thinking)[1]

    @property
    def thoughts(self) -> str:
        """What the model thought before it answered; blank if it did not."""
        return divide(self.completion, begins_thinking=self.begins_thinking)[0]


@dataclass(frozen=True, slots=True)
class Reward:
    """What one rollout earned."""

    total: float | None
    """Weighted sum of the breakdown; None if no reward function had an opinion."""
    breakdown: Mapping[str, float | None]
    """Unweighted value by reward name."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What reward functions logged of it, by column (TRL's `log_extra`)."""


@dataclass(frozen=True, slots=True)
class RolloutBatch:
    """The rollouts that one step learns from: groups of siblings, with what each rollout earned.

    Example:
        batch.rollouts[g * batch.group_size + i]  # sibling i of group g answers batch.prompts[g]
    """

    rollouts: tuple[Rollout, ...]
    """Siblings adjacent."""
    group_size: int
    experts: tuple[Demonstration | None, ...]
    """Per group the demonstration whose prompt it answers; None for a preference prompt."""
    rewards: tuple[Reward, ...] = ()
    """Per rollout; empty where nothing asks for rewards."""
    reward_metrics: Mapping[str, float] = field(default_factory=dict)
    """What reward functions logged (TRL's `log_metric`) by `<reward>/<name>`; of all steps that a batch serves."""

    @property
    def num_groups(self) -> int:
        """Prompts that were rolled out."""
        return len(self.experts)

    @property
    def sampled(self) -> tuple[Rollout, ...]:
        """Those that the policy said, without the expert's among them."""
        return tuple(rollout for rollout in self.rollouts if not rollout.is_expert)

    @property
    def num_tokens(self) -> int:
        """Sampled tokens, those of truncated rollouts included."""
        return sum(len(rollout.token_ids) for rollout in self.sampled)


class Generator(Protocol):
    """Samples completions from the policy's current weights."""

    def sample(self, prompts: Sequence[Prompt], group_size: int) -> list[Rollout]:
        """Return `group_size` rollouts per prompt, siblings adjacent, prompts in the given order."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to sample the same tokens."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`."""
        ...


class RewardFunction(Protocol):
    """TRL's signature: one value per completion, None where the function has no opinion."""

    def __call__(
        self, prompts: list[Any], completions: list[Any], **columns: Any
    ) -> list[float | None]:
        """Score completions; strings in, or message lists where the data is conversational."""
        ...
