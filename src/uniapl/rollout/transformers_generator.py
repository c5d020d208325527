"""Samples rollouts from the very model that is being trained, by transformers' forward alone.

The model is borrowed for a call, never copied: its weights are always the current ones, and it is
given back in the mode it came in.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from uniapl.cpu import decoding_attention
from uniapl.cpu.reordered_weights import reordered_weights
from uniapl.distributed import ALONE, Ranks
from uniapl.errors import InputError
from uniapl.rollout.completions import CompletionReader, check_room
from uniapl.rollout.decoding import Decoded, decode
from uniapl.rollout.static_decoding import StaticDecoder
from uniapl.types import Prompt, Rollout

_ATTENTION_KINDS = {"full_attention", "sliding_attention"}


class TransformersGenerator:
    """A `Generator` over a transformers model on any device.

    Args:
        model: a decoder-only causal LM. Unwrapped: neither DDP nor FSDP around it.
        tokenizer: decodes completions.
        max_completion_tokens: length limit; a completion that reaches it is truncated.
        eos_token_ids: the tokens that end a turn. There are often several, such as the chat
            template's end of turn and the base model's end of text.
        temperature: divides the logits; 0 takes the likeliest token. Nothing else shapes the
            distribution (no top-k, no top-p), so that the sampling log-probs are those of the
            policy and importance ratios are unbiased.
        max_rows: completions decoded at once; less needs less memory. It changes no result
            beyond rounding.
        cache: `dynamic` grows with the completions; `static` is as long as they may get and lets
            CUDA replay whole steps (`static_decoding`). It changes no result beyond rounding.
        seed: of the generator's own random numbers; torch's global ones are never touched.

    Example:
        generator = TransformersGenerator(
            model, tokenizer, max_completion_tokens=64, eos_token_ids=[tokenizer.eos_token_id])
        rollouts = generator.sample(prompts, group_size=8)
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_completion_tokens: int,
        eos_token_ids: Collection[int],
        temperature: float = 1.0,
        max_rows: int = 256,
        cache: Literal["dynamic", "static"] = "dynamic",
        seed: int = 0,
    ) -> None:
        is_number = 0 <= temperature < math.inf
        if max_completion_tokens < 1 or max_rows < 1 or not is_number or not eos_token_ids:
            raise InputError(
                "a generator needs max_completion_tokens >= 1, max_rows >= 1, temperature >= 0 "
                f"and an end-of-turn token; got {max_completion_tokens}, {max_rows}, "
                f"{temperature} and {list(eos_token_ids)}"
            )
        _check_model(model)
        self._model = model
        self._max_completion_tokens = max_completion_tokens
        self._temperature = temperature
        self._eos_token_ids = frozenset(eos_token_ids)
        self._reader = CompletionReader(tokenizer)
        self._max_rows = max_rows
        self._ranks = ALONE
        is_static = cache == "static"
        self._run = StaticDecoder(model).decode if is_static else partial(decode, model)
        self._weights = nullcontext if is_static else reordered_weights
        # On the CPU whatever the model's device: a run resumes on other hardware, and drawing
        # costs one small transfer per chunk.
        self._random = torch.Generator().manual_seed(seed)

    def among(self, ranks: Ranks) -> "TransformersGenerator":
        """Let each rank decode the completions of some prompts; returns this generator.

        All ranks have the same seed and draw the numbers of all completions, so how many there are changes no token.
        """
        self._ranks = ranks
        return self

    def sample(self, prompts: Sequence[Prompt], group_size: int) -> list[Rollout]:
        """Return `group_size` rollouts per prompt, siblings adjacent, prompts in the given order.

        Raises:
            InputError: a prompt is empty or leaves no room in the model's context.
            TrainingError: the model's logits are not finite.
        """
        if group_size < 1:
            raise InputError(f"group_size must be at least 1, got {group_size}")
        if not prompts:
            return []
        for prompt in prompts:
            self._check_prompt(prompt)
        wanted = [prompt for prompt in prompts for _ in range(group_size)]
        completions = self._decode([prompt.token_ids for prompt in wanted], group_size)
        return self._reader.rollouts(wanted, completions)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to sample the same tokens: the random state."""
        return {"random_state": self._random.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`."""
        self._random.set_state(state["random_state"].cpu())

    def _decode(self, prompts: list[tuple[int, ...]], group_size: int) -> list[Decoded]:
        """Decode, each rank whole groups of siblings; completions come back in the given order."""
        draws = None
        if self._temperature > 0:
            # All at once and in the caller's order, so that no chunking changes a completion.
            # 1 - [0, 1) is (0, 1]: a draw of 0 could choose a token of probability 0. In float32 there are
            # 2^24 draws, fewer than tell the unlikely tokens of a large vocabulary apart.
            shape = (len(prompts), self._max_completion_tokens)
            draws = 1 - torch.rand(shape, generator=self._random, dtype=torch.float64)
        # Longest first: if memory does not suffice, it shows at once.
        groups = sorted(range(0, len(prompts), group_size), key=lambda first: -len(prompts[first]))

        def decoded(own: list[int]) -> list[list[Decoded]]:
            order = [first + i for first in own for i in range(group_size)]
            completions = self._decode_rows(prompts, draws, order)
            return [[completions[first + i] for i in range(group_size)] for first in own]

        found = dict(zip(groups, self._ranks.spread(groups, decoded, "decoding"), strict=True))
        return [completion for first in sorted(found) for completion in found[first]]

    def _decode_rows(
        self, prompts: list[tuple[int, ...]], draws: Tensor | None, order: list[int]
    ) -> dict[int, Decoded]:
        """Decode some rows, in chunks of like length; return completions by row."""
        num_chunks = -(-len(order) // self._max_rows)
        completions: dict[int, Decoded] = {}
        with _borrowed(self._model), self._weights(self._model):
            for chunk in range(num_chunks):
                start, end = (len(order) * part // num_chunks for part in (chunk, chunk + 1))
                rows = order[start:end]
                decoded = self._run(
                    [prompts[row] for row in rows],
                    None if draws is None else draws[rows],
                    max_tokens=self._max_completion_tokens,
                    temperature=self._temperature,
                    eos_token_ids=self._eos_token_ids,
                )
                completions.update(zip(rows, decoded, strict=True))
        return completions

    def _check_prompt(self, prompt: Prompt) -> None:
        config = self._model.config.get_text_config()
        context = getattr(config, "max_position_embeddings", None)
        check_room(prompt, self._max_completion_tokens, context, "the model's context")


def _check_model(model: PreTrainedModel) -> None:
    config = model.config.get_text_config()
    other = set(getattr(config, "layer_types", None) or ()) - _ATTENTION_KINDS
    if config.is_encoder_decoder or other:
        what = ", ".join(sorted(other)) or "an encoder"
        raise InputError(
            f"cannot sample from a {config.model_type} model here: it has {what}, and only "
            "decoder-only models with full or sliding-window attention are supported"
        )


@contextmanager
def _borrowed(model: PreTrainedModel) -> Iterator[None]:
    """Put the model into eval mode and plain attention; give it back as it was.

    A trainer may have set its own attention for packed sequences, which knows no cache.
    """
    modes = [(module, module.training) for module in model.modules()]
    attention = str(model.config._attn_implementation)
    wanted = attention if attention in ("eager", "sdpa") else "sdpa"
    if wanted == "sdpa" and not model._supports_sdpa:
        wanted = "eager"
    if wanted == "sdpa" and decoding_attention.serves(model.device):
        wanted = decoding_attention.NAME
    model.eval()
    try:
        if attention != wanted:
            model.set_attn_implementation(wanted)
        yield
    finally:
        if attention != wanted:
            model.set_attn_implementation(attention)
        for module, is_training in modes:
            module.training = is_training
