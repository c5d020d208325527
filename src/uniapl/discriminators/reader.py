"""How a model that is not the policy reads a prompt: by its own chat template, perhaps with the demonstration in it.

It reads the policy's token ids of the completion, so both models must have the same tokens.
"""

import re
from collections.abc import Callable, Sequence

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from uniapl.data.chat import Chat
from uniapl.errors import InputError
from uniapl.models.packing import TokenSequence
from uniapl.types import Demonstration, Message, Prompt, Rollout, RolloutBatch

LONGEST_PROMPTS = 32
"""So many prompts, the longest ones, are tried before the first step."""

Render = Callable[[Sequence[Message]], tuple[int, ...]]
"""Renders turns as the ids of a prompt; a server does so by its model's own chat template."""


class PromptReader:
    """Turns prompts into what the discriminator's language model reads."""

    def __init__(
        self,
        chat: Chat | None = None,
        hint_template: str | None = None,
        render: Render | None = None,
    ) -> None:
        """Prepare.

        Args:
            chat: The model's own tokenizer and template; None: it reads the policy's token ids.
            hint_template: The last user turn, with `{prompt}` and the demonstration, `{completion}`; None: no hint.
            render: Takes the place of `chat` where a server renders prompts.
        """
        assert chat is not None or render is not None or hint_template is None
        self.chat = chat
        self.render = render
        self.hint_template = hint_template

    def rollouts(self, batch: RolloutBatch) -> list[TokenSequence | None]:
        """Return what is read of each rollout.

        None for the expert's completion among them, and where a hint is wanted and the prompt has no demonstration.
        """
        size = batch.group_size
        found: list[TokenSequence | None] = []
        for group, expert in enumerate(batch.experts):
            siblings = batch.rollouts[group * size : (group + 1) * size]
            is_read = self.hint_template is None or expert is not None
            # once per group: siblings that share their prompt are forwarded with one copy of it
            prompt_ids = self.prompt_ids(siblings[0].prompt, expert) if is_read else ()
            found += [
                TokenSequence(prompt_ids, sibling.token_ids)
                if is_read and not sibling.is_expert
                else None
                for sibling in siblings
            ]
        return found

    def sequence(
        self, sample: Demonstration | Rollout, hint: Demonstration | None = None
    ) -> TokenSequence:
        """Return what is read of one sample."""
        return TokenSequence(self.prompt_ids(sample.prompt, hint), sample.token_ids)

    def prompt_ids(self, prompt: Prompt, hint: Demonstration | None = None) -> tuple[int, ...]:
        """Return the ids of a prompt, with a demonstration in its last turn if there is a template for it."""
        if self.chat is None and self.render is None:
            return prompt.token_ids
        turns = prompt.messages
        if self.hint_template is not None and hint is not None:
            turns = (*turns[:-1], _hinted(turns[-1], self.hint_template, hint.completion))
        if self.render is not None:
            return self.render(turns)
        assert self.chat is not None
        return self.chat.encode_turns(turns)


def _hinted(turn: Message, template: str, completion: str) -> Message:
    texts = {"{prompt}": turn["content"], "{completion}": completion}
    # in one pass: a prompt may spell out a field's name
    content = re.sub(r"\{prompt\}|\{completion\}", lambda field: texts[field[0]], template)
    return {**turn, "content": content}


def check_same_tokens(
    own: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase, other_name: str
) -> None:
    """Refuse a model for which the policy's token ids mean something else.

    Raises:
        InputError: A token of the policy's tokenizer is another one, or none, there.
    """
    theirs = other.get_vocab()
    for token, number in sorted(own.get_vocab().items(), key=lambda item: item[1]):
        if theirs.get(token) != number:
            found = theirs.get(token)
            there = "is not there" if found is None else f"has number {found} there"
            raise InputError(
                f"{other_name} has another tokenizer than the policy: token {number}, {token!r}, {there}; "
                "log-probs of the policy's tokens need the same tokens"
            )


def check_context(
    reader: PromptReader,
    demonstrations: Sequence[Demonstration],
    prompts: Sequence[Prompt],
    *,
    room: int,
    context: int | None,
) -> None:
    """Refuse an expert that could not read a long completion of the longest prompts, hints included.

    Args:
        reader: How it reads prompts; the longest by the policy's tokens are tried.
        demonstrations: Whose prompts are rolled out, and which are hints.
        prompts: Further ones that are rolled out.
        room: Most tokens of a completion.
        context: Most tokens that the expert reads; None: it does not say.

    Raises:
        InputError: A prompt would not fit.
    """
    if context is None:
        return
    is_hinted = reader.hint_template is not None
    asked: list[tuple[int, Prompt, Demonstration | None]] = [
        (len(d.prompt.token_ids) + is_hinted * len(d.token_ids), d.prompt, d)
        for d in demonstrations
    ]
    if not is_hinted:
        asked += [(len(p.token_ids), p, None) for p in prompts]
    for _, prompt, hint in sorted(asked, key=lambda one: one[0], reverse=True)[:LONGEST_PROMPTS]:
        num_tokens = len(reader.prompt_ids(prompt, hint))
        if num_tokens + room > context:
            with_hint = " with its hint" if is_hinted else ""
            raise InputError(
                f"discriminator: prompt {prompt.id}{with_hint} has {num_tokens} tokens; with {room} of a completion "
                f"the expert cannot read it, at most {context}: shorten it or lower rollout.max_completion_tokens"
            )
