"""What all generators share: which prompts leave room for an answer, and how sampled tokens become rollouts."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from uniapl.errors import InputError
from uniapl.rollout.decoding import Decoded
from uniapl.thoughts import CLOSING, OPENING, left_open
from uniapl.types import Prompt, Rollout

_LAST_TOKENS = 16
"""As many tokens of a prompt as hold `<think>` and blanks after it, in any spelling."""


class CompletionReader:
    """Turns sampled tokens into rollouts with their text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._dropped = _special_token_ids(tokenizer)

    def rollouts(self, prompts: Sequence[Prompt], completions: Sequence[Decoded]) -> list[Rollout]:
        """Return one rollout per completion.

        Args:
            prompts: One per completion: siblings repeat theirs.
            completions: In the same order.
        """
        thinking = {id(prompt): self._begins_thinking(prompt) for prompt in prompts}
        return [
            Rollout(
                prompt=prompt,
                completion=self._text(completion),
                token_ids=tuple(completion.token_ids),
                sampling_logprobs=tuple(completion.logprobs),
                finish_reason="stop" if completion.has_ended else "length",
                begins_thinking=thinking[id(prompt)],
            )
            for prompt, completion in zip(prompts, completions, strict=True)
        ]

    def _text(self, completion: Decoded) -> str:
        """Return a completion's text; of the special tokens only the marks of a thought."""
        body = completion.token_ids[:-1] if completion.has_ended else completion.token_ids
        kept = [token for token in body if token not in self._dropped]
        text = self._tokenizer.decode(kept, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text

    def _begins_thinking(self, prompt: Prompt) -> bool:
        end = self._tokenizer.decode(list(prompt.token_ids[-_LAST_TOKENS:]))
        assert isinstance(end, str)
        return left_open(end)


def check_room(prompt: Prompt, max_completion_tokens: int, context: int | None, whose: str) -> None:
    """Refuse a prompt that is empty or too long.

    Args:
        prompt: To be continued.
        max_completion_tokens: The longest answer.
        context: Tokens of both together, at most; None: as many as one likes.
        whose: Context it is, for the message.

    Raises:
        InputError: It is such a prompt.
    """
    if not prompt.token_ids:
        raise InputError(f"prompt {prompt.id} has no tokens, so there is nothing to continue")
    if context is not None and len(prompt.token_ids) + max_completion_tokens > context:
        raise InputError(
            f"prompt {prompt.id} has {len(prompt.token_ids)} tokens; with {max_completion_tokens} "
            f"completion tokens it does not fit {whose} of {context}: shorten it or lower "
            "rollout.max_completion_tokens"
        )


def _special_token_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the special tokens that a text leaves out: all but the marks of a thought."""
    added = tokenizer.added_tokens_decoder.items()
    special = {number for number, token in added if token.special} | set(tokenizer.all_special_ids)
    marks = (OPENING, CLOSING)
    return frozenset(n for n in special if tokenizer.convert_ids_to_tokens(n) not in marks)
