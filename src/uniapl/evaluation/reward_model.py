"""Models that say how good a completion is: reward models, and the discriminators that runs have saved.

`encode` turns a prompt and a completion into what the model reads, `scores` takes many of them at once.
Training makes rewards of it, `pairs.py` measures it.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from uniapl.config.schema import Config
from uniapl.data.chat import Chat
from uniapl.errors import InputError
from uniapl.models.language_model import LanguageModel
from uniapl.models.packing import TokenSequence, completion_offsets, pack, per_token, sequence_of
from uniapl.models.sequence_classifier import (
    Encoded,
    SequenceClassifier,
    load_sequence_classifier,
)
from uniapl.objective.reductions import sequence_mean
from uniapl.types import Demonstration, Message, Rollout

Given = str | Sequence[Message]
"""A prompt as the data gives it: a string, or turns."""

NAMED_CHARACTERS = 60
"""So much of a prompt stands in a message: reward functions do not know its id."""


class Scorer(Protocol):
    """Says how good completions are; only the order of its scores means anything."""

    def encode(self, prompt: Given, completion: str) -> Any:
        """Return what the model reads.

        Raises:
            InputError: It is too long for the model, or its template refuses the turns.
        """
        ...

    def scores(self, texts: Sequence[Any]) -> list[float]:
        """Return the score of each encoded text, high = good."""
        ...


class RewardModel:
    """A sequence classifier with its own tokenizer and chat template.

    Encoders (BERT and its kin) without a chat template read prompt and completion as a pair of texts.
    """

    def __init__(
        self,
        classifier: SequenceClassifier,
        tokenizer: PreTrainedTokenizerBase,
        system_prompt: str | None = None,
    ) -> None:
        """Prepare what the model reads.

        Args:
            classifier: Scores texts.
            tokenizer: The classifier's.
            system_prompt: Put before prompts that have none, as the policy's; reward functions get prompts
                that are strings without it.

        Raises:
            InputError: A system prompt, and no chat template to read it.
        """
        if system_prompt is not None and not tokenizer.chat_template:
            raise InputError(
                "the policy reads data.system_prompt, and this reward model cannot, for its tokenizer has no "
                "chat template; choose another one, or leave the system prompt out"
            )
        self._classifier = classifier
        self._tokenizer = tokenizer
        has_pairs = tokenizer.cls_token is not None and tokenizer.sep_token is not None
        self._chat: Chat | None = None
        if tokenizer.chat_template or not has_pairs:
            self._chat = Chat(tokenizer, system_prompt=system_prompt)

    def encode(self, prompt: Given, completion: str) -> Encoded:
        """As `Scorer`."""
        if self._chat is not None:
            text: Encoded = {"input_ids": self._chat.encode_conversation(prompt, completion)}
        elif isinstance(prompt, str):
            text = dict(
                self._tokenizer(
                    prompt, completion, return_attention_mask=False, split_special_tokens=True
                )
            )
        else:
            raise InputError("messages need a tokenizer with a chat template; this one has none")
        _check_length(len(text["input_ids"]), self._classifier.context)
        return text

    def scores(self, texts: Sequence[Encoded]) -> list[float]:
        """As `Scorer`."""
        return self._classifier.scores(texts)

    def rewards(self, prompts: Sequence[Given], completions: Sequence[str]) -> list[float]:
        """Encode and score, for a reward function.

        Raises:
            InputError: As `encode`, with the beginning of the prompt.
        """
        given = zip(prompts, completions, strict=True)
        return self.scores([self._encode_named(prompt, completion) for prompt, completion in given])

    def _encode_named(self, prompt: Given, completion: str) -> Encoded:
        try:
            return self.encode(prompt, completion)
        except InputError as error:
            text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
            raise InputError(f"{error} (the prompt begins {text[:NAMED_CHARACTERS]!r})") from error


class LikelihoodRatio:
    """d(x, y) of a run's `likelihood` discriminator: the mean of log p_φ - log π over tokens, both as they are now."""

    def __init__(
        self,
        expert: LanguageModel,
        policy: LanguageModel,
        chat: Chat,
        config: Config,
        expert_chat: Chat,
    ) -> None:
        """Prepare.

        Args:
            expert: p_φ.
            policy: π, with the same tokens.
            chat: How the policy reads prompts.
            config: The run's.
            expert_chat: How p_φ does.
        """
        self._expert = expert
        self._policy = policy
        self._chat = chat
        self._config = config
        self._expert_chat = expert_chat

    def encode(self, prompt: Given, completion: str) -> tuple[TokenSequence, TokenSequence]:
        """As `Scorer`: what p_φ reads, and what the policy does; the completion's tokens are the same."""
        completion_ids = self._chat.encode_completion(completion)
        own = TokenSequence(self._chat.encode_prompt(prompt), completion_ids)
        return self._both(own, self._chat.messages(prompt))

    def read(self, sample: Demonstration | Rollout) -> tuple[TokenSequence, TokenSequence]:
        """Return the same of tokens that were written or sampled already.

        Raises:
            InputError: As `encode`.
        """
        return self._both(sequence_of(sample), sample.prompt.messages)

    def _both(
        self, own: TokenSequence, turns: Sequence[Message]
    ) -> tuple[TokenSequence, TokenSequence]:
        theirs = TokenSequence(self._expert_chat.encode_turns(turns), own.completion_ids)
        for text, model in ((own, self._policy), (theirs, self._expert)):
            config = model.model.config.get_text_config()
            context = getattr(config, "max_position_embeddings", None)
            _check_length(len(text.prompt_ids) + len(text.completion_ids), context)
        return theirs, own

    def scores(self, texts: Sequence[tuple[TokenSequence, TokenSequence]]) -> list[float]:
        """As `Scorer`."""
        theirs, own = ([pair[side] for pair in texts] for side in (0, 1))
        ratios_T = self._logprobs(self._expert, theirs) - self._logprobs(self._policy, own)
        index = per_token(torch.arange(len(texts), device=ratios_T.device), own)
        return sequence_mean(ratios_T, index, len(texts)).tolist()

    def _logprobs(self, model: LanguageModel, texts: Sequence[TokenSequence]) -> Tensor:
        """Return log-probs of all completion tokens, [tokens], nats, at the temperature of training."""
        packed = pack(texts, self._config.training.micro_batch_tokens)
        return model.flat_logprobs(
            [p.to(model.device) for p in packed],
            completion_offsets(texts)[-1],
            self._config.rollout.temperature,
        )


def load_reward_model(
    path: str, device: torch.device, system_prompt: str | None = None
) -> RewardModel:
    """Load a reward model or a saved `scalar` discriminator, in bfloat16 on an accelerator.

    Args:
        path: Folder or hub id.
        device: Where it goes.
        system_prompt: As of `RewardModel`.

    Raises:
        InputError: Nothing loadable is there, it is no reward model, or it cannot read the system prompt.
    """
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    return RewardModel(*load_sequence_classifier(path, dtype, device), system_prompt)


def _check_length(num_tokens: int, context: int | None) -> None:
    if context is not None and num_tokens > context:
        raise InputError(
            f"prompt and completion have {num_tokens} tokens; the model reads at most {context}, and "
            "nothing is cut"
        )
