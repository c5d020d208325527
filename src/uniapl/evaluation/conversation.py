"""A conversation with a model, as it was trained: its template, system prompt and template arguments.

Answers come from transformers' own `generate`: a conversation is one row, and its text streams.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, TextStreamer

from uniapl.data.chat import decode_plainly
from uniapl.errors import InputError
from uniapl.evaluation.answering import AnsweringModel, load_answering_model
from uniapl.evaluation.benchmark import Decoding
from uniapl.thoughts import left_open, without_thoughts
from uniapl.types import Message

Show = Callable[[str], None]
"""Receives the text of an answer in pieces, as it comes."""

DEFAULT_MAX_TOKENS = 512
"""Of an answer."""


@dataclass(slots=True)
class Conversation:
    """The turns so far, and the model that answers.

    Example:
        conversation = load_conversations("runs/first")["after training"]
        conversation.reply("Write about the sea.", lambda text: print(text, end=""))
    """

    model: AnsweringModel
    decoding: Decoding
    turns: list[Message] = field(default_factory=list)
    """Thoughts of earlier answers are left out, as most templates would leave them out."""
    num_replies: int = 0
    """Since the model was loaded; it chooses the draws, so that the same words give the same conversation."""

    def __post_init__(self) -> None:
        """Let transformers' own attention run: the packed one has no cache."""
        model = self.model.policy.model
        model.set_attn_implementation("sdpa" if model._supports_sdpa else "eager")

    @property
    def remembers(self) -> bool:
        """Whether there is a chat template; without one, each text is continued by itself."""
        return bool(self.model.chat.tokenizer.chat_template)

    def reset(self) -> None:
        """Begin again."""
        self.turns.clear()

    def reply(self, text: str, show: Show) -> bool:
        """Answer a turn of the user's.

        An error or an interruption leaves the conversation as it was.

        Args:
            text: The user's turn.
            show: Receives the answer, thoughts included.

        Returns:
            Whether the answer ended by itself; False if the limit of tokens cut it off.

        Raises:
            InputError: The conversation leaves no room in the model's context.
        """
        chat = self.model.chat
        turns: list[Message] = [*(self.turns if self.remembers else ()), _turn("user", text)]
        prompt = self.model.encode(turns)
        limit = self._room(len(prompt))
        torch.manual_seed(self.decoding.seed + self.num_replies)
        self.num_replies += 1
        ids = torch.tensor([prompt], device=self.model.policy.device)
        with self.model.policy.autocast(), torch.inference_mode():
            output = self.model.policy.model.generate(  # pyright: ignore[reportCallIssue]
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                generation_config=self._generation_config(limit),
                streamer=_Streamer(chat.tokenizer, show),  # pyright: ignore[reportArgumentType]
            )
        answer = [int(token) for token in output[0, len(prompt) :]]
        thinks = left_open(decode_plainly(chat.tokenizer, prompt))
        content = without_thoughts(chat.decode_completion(answer), begins_thinking=thinks)
        self.turns = [*turns, _turn("assistant", content)]
        return bool(answer) and answer[-1] in chat.eos_token_ids

    def _room(self, num_prompt_tokens: int) -> int:
        limit = self.decoding.max_completion_tokens or DEFAULT_MAX_TOKENS
        context = self.model.context
        room = limit if context is None else min(limit, context - num_prompt_tokens)
        if room < 1:
            raise InputError(
                f"the conversation has {num_prompt_tokens} tokens and the model's context {context}; "
                "/reset begins again"
            )
        return room

    def _generation_config(self, limit: int) -> GenerationConfig:
        """Return the distribution that was trained: no top-k, no top-p, no penalty."""
        chat, temperature = self.model.chat, self.decoding.temperature
        sampling: dict[str, Any] = {"do_sample": False}
        if temperature:
            sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        pad = chat.tokenizer.pad_token_id
        return GenerationConfig(
            max_new_tokens=limit,
            eos_token_id=list(chat.eos_token_ids),
            pad_token_id=chat.eos_token_ids[0] if pad is None else pad,
            repetition_penalty=1.0,
            **sampling,
        )


class _Streamer(TextStreamer):
    """Hands the text on, word by word."""

    def __init__(self, tokenizer: Any, show: Show) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._show = show

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Receive what will not change any more."""
        if text:
            self._show(text)


def load_conversations(
    model: str | Path, given: Mapping[str, Any] | None = None, *, compares: bool = False
) -> dict[str, Conversation]:
    """Load a model, and the one before training beside it.

    Args:
        model: A model folder, a hub id, or a run folder.
        given: Fields of `Decoding` that the user chose; by default a run answers at the temperature of its
            evaluations and any other model greedily.
        compares: Also load what the run started from.

    Returns:
        Name → conversation, with the same decoding.

    Raises:
        InputError: A model cannot be loaded, or is no run where two are to be compared.
    """
    given = dict(given or {})
    Decoding(**given)  # what is wrong is said before a model is loaded
    arguments = {} if given.get("is_thinking", True) else {"enable_thinking": False}
    after = load_answering_model(model, template_arguments=arguments)
    run = after.run
    if compares and run is None:
        raise InputError(f"--compare needs a run folder, which says what it started from: {model}")
    temperature = 0.0 if run is None else run.evaluation.temperature
    decoding = Decoding(**{"temperature": temperature, **given})
    found = {"after training" if run else "model": Conversation(after, decoding)}
    if compares and run is not None:
        before = load_answering_model(
            run.model.path,
            system_prompt=after.system_prompt,
            template_arguments=after.template_arguments,
            dtype_name=after.dtype_name,
        )
        found["before training"] = Conversation(before, decoding)
    return found


def _turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}
