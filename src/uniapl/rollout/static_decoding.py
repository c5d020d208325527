"""The decode loop over fixed buffers: on CUDA every step is a captured graph, replayed.

Same arguments and same results as `decoding.decode`. There, launching a model's small kernels one by one takes
longer than running them; here a step is launched as a whole. Its shape is one of few: as rows end, the number of
rows is halved, and attention sees as many columns as are filled, rounded up. Graphs and buffers stay for the next
call, so after the first calls nothing is captured any more.

On the CPU the same loop runs without graphs; that is what the tests compare.
"""

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from uniapl.errors import InputError
from uniapl.rollout.decoding import (
    CHECK_EVERY,
    Decoded,
    Prefilled,
    choose_tokens,
    closed_ranks,
    cut,
    layers,
    prefill,
)
from uniapl.rollout.static_cache import NAME, StaticLayer

COLUMN_STEP = 128
"""Attention sees a multiple of so many columns."""
LEAST_ROWS = 8
"""Fewer rows are no faster."""


class StaticDecoder:
    """Decodes with one model, whose weights it reads where they are.

    Under bfloat16 autocast it keeps a rounded copy of the weights instead, renewed in place at every
    call: a replayed graph would round all of them for every token.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._trained = model
        self._rounded: PreTrainedModel | None = None
        self._buffers: _Buffers | None = None

    @torch.no_grad()
    def decode(
        self,
        prompts: Sequence[Sequence[int]],
        draws: Tensor | None,
        *,
        max_tokens: int,
        temperature: float,
        eos_token_ids: Collection[int],
    ) -> list[Decoded]:
        """Continue every prompt until it ends or has `max_tokens` new tokens: see `decoding.decode`.

        Raises:
            InputError: the model does not use transformers' key/value cache, or its attention needs
                `rollout.cache: dynamic`.
            TrainingError: the log-probs are not finite.
        """
        model = self._current_model()
        device = model.device
        with torch.autocast(device.type, enabled=False):
            prefilled = prefill(model, prompts)
            loop = self._begin(model, prefilled, max_tokens, temperature)
            token_ids = torch.zeros(len(prompts), max_tokens, dtype=torch.long, device=device)
            logprobs = torch.zeros(len(prompts), max_tokens, device=device)
            draws = torch.ones_like(logprobs) if draws is None else draws
            draws = draws.to(device, torch.float64)
            eos = torch.tensor(sorted(eos_token_ids), device=device)
            check_every = CHECK_EVERY.get(device.type, 8)
            chosen = choose_tokens(prefilled.logits[prefilled.rows], draws[:, 0], temperature)
            loop.set_chosen(*chosen)
            with _attention(model):
                for step in range(max_tokens):
                    loop.record(token_ids, logprobs, step, eos)
                    if step + 1 == max_tokens:
                        break
                    if (step + 1) % check_every == 0 and not loop.drop_ended():
                        break
                    loop.forward(draws[:, step + 1])
        return cut(token_ids, logprobs, set(eos_token_ids))

    def _current_model(self) -> PreTrainedModel:
        """Return the model whose weights to read, up to date."""
        kind = self._trained.device.type
        dtype = torch.get_autocast_dtype(kind)
        if not torch.is_autocast_enabled(kind) or dtype == self._trained.dtype:
            return self._trained
        if self._rounded is None:
            self._rounded = copy.deepcopy(self._trained).requires_grad_(False).eval()
            # not `.to`: that would also round the frequencies of the positions
            for weight in self._rounded.parameters():
                weight.data = weight.data.to(dtype)
        pairs = zip(self._rounded.parameters(), self._trained.parameters(), strict=True)
        for rounded, trained in pairs:
            rounded.copy_(trained)
        self._rounded.set_attn_implementation(str(self._trained.config._attn_implementation))
        return self._rounded

    def _begin(
        self, model: PreTrainedModel, prefilled: Prefilled, max_tokens: int, temperature: float
    ) -> "_Loop":
        num_rows = _rounded_rows(len(prefilled.rows))
        num_columns = _rounded_columns(prefilled.cache.get_seq_length() + max_tokens)
        if self._buffers is None or not self._buffers.fit(
            model, num_rows, num_columns, temperature
        ):
            self._buffers = None  # frees the old ones before there are new ones
            self._buffers = _Buffers(model, prefilled, num_rows, num_columns, temperature)
        return _Loop(self._buffers, prefilled)


def _rounded_rows(num_rows: int) -> int:
    return max(LEAST_ROWS, 1 << (num_rows - 1).bit_length())


def _rounded_columns(num_columns: int) -> int:
    return -(-num_columns // COLUMN_STEP) * COLUMN_STEP


class _Buffers:
    """What steps read and write, always at the same place, and the graphs that do it."""

    def __init__(
        self,
        model: PreTrainedModel,
        prefilled: Prefilled,
        num_rows: int,
        num_columns: int,
        temperature: float,
    ) -> None:
        device = model.device
        self.model = model
        self.temperature = temperature
        self.num_rows, self.num_columns = num_rows, num_columns
        self.tokens = torch.zeros(num_rows, dtype=torch.long, device=device)
        """Read: the last token of every row."""
        self.positions = torch.zeros_like(self.tokens)
        """Read: its position, padding not counted."""
        self.draws = torch.ones(num_rows, dtype=torch.float64, device=device)
        """Read: the uniform number that decides the next token."""
        self.slot = torch.zeros(1, dtype=torch.long, device=device)
        """Read: the column of the last token."""
        self.padding = torch.zeros_like(self.tokens)
        """Read: columns of a row before its prompt."""
        self.chosen = torch.zeros_like(self.tokens)
        """Written: the next token of every row."""
        self.chosen_logprobs = torch.zeros(num_rows, device=device)
        """Written: its log-prob."""
        self.columns = torch.arange(num_columns, device=device)
        shape = (num_rows, num_columns)
        self.layers = [
            StaticLayer(_buffer(x.keys, *shape), _buffer(x.values, *shape), self.slot)
            for x in layers(prefilled.cache)
        ]
        self.cache = Cache(layers=list(self.layers))
        self._addresses = _addresses(model)
        self._replays: dict[tuple[int, int], Callable[[], None]] = {}
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    def fit(
        self, model: PreTrainedModel, num_rows: int, num_columns: int, temperature: float
    ) -> bool:
        """Whether they serve a call of that size; a graph knows weights by their address."""
        has_room = num_rows <= self.num_rows and num_columns <= self.num_columns
        is_same = model is self.model and temperature == self.temperature
        return has_room and is_same and _addresses(model) == self._addresses

    def run(self, num_rows: int, num_columns: int) -> None:
        """Take one step with the first rows and columns."""
        for layer in self.layers:
            layer.show(num_rows, num_columns)
        shape = (num_rows, num_columns)
        if self._pool is None:
            self._step(*shape)
            return
        if shape not in self._replays:
            self._replays[shape] = _captured(lambda: self._step(*shape), self._pool)
        self._replays[shape]()

    def _step(self, num_rows: int, num_columns: int) -> None:
        """Forward one token per row and choose the next one.

        It changes nothing that it reads but the cache's slot, which it writes first: run twice, it does the same.
        """
        columns, padding = self.columns[:num_columns], self.padding[:num_rows, None]
        distance = self.slot - columns
        logits = self.model(
            input_ids=self.tokens[:num_rows, None],
            position_ids=self.positions[:num_rows, None],
            past_key_values=self.cache,
            use_cache=True,
            static_distance=torch.where(columns < padding, -1, distance),
            static_positions=self.positions[:num_rows],
            static_masks={},
        ).logits[:, -1]
        tokens, logprobs = choose_tokens(logits, self.draws[:num_rows], self.temperature)
        self.chosen[:num_rows] = tokens
        self.chosen_logprobs[:num_rows] = logprobs


class _Loop:
    """One batch on its way through the buffers; live rows are in front."""

    def __init__(self, buffers: _Buffers, prefilled: Prefilled) -> None:
        self.buffers = buffers
        count, longest = len(prefilled.rows), prefilled.cache.get_seq_length()
        self.num_rows = _rounded_rows(count)
        self.num_filled = longest
        self.order = torch.arange(count, device=buffers.tokens.device)
        """Which completion each of the first rows writes; the rows after them idle."""
        self.has_ended = torch.zeros(count, dtype=torch.bool, device=buffers.tokens.device)
        for layer, prompts in zip(buffers.layers, layers(prefilled.cache), strict=True):
            assert prompts.keys is not None
            assert prompts.values is not None
            layer.fill(prompts.keys, prompts.values, prefilled.rows)
        lengths = prefilled.lengths[prefilled.rows]
        # an idle row has no padding and so attends to whatever is there: finite, and never read
        buffers.padding.zero_()[:count] = longest - lengths
        buffers.positions.zero_()[:count] = lengths - 1
        buffers.slot.fill_(longest - 1)

    def set_chosen(self, tokens: Tensor, logprobs: Tensor) -> None:
        """Begin with the tokens that follow the prompts."""
        self.buffers.chosen[: len(tokens)] = tokens
        self.buffers.chosen_logprobs[: len(tokens)] = logprobs

    def record(self, token_ids: Tensor, logprobs: Tensor, step: int, eos: Tensor) -> None:
        """Copy what was chosen into the results and note which rows have ended."""
        chosen = self.buffers.chosen[: len(self.order)]
        token_ids[self.order, step] = chosen
        logprobs[self.order, step] = self.buffers.chosen_logprobs[: len(self.order)]
        self.has_ended |= torch.isin(chosen, eos)

    def drop_ended(self) -> bool:
        """Halve the rows as soon as those still live fit; returns whether any is."""
        has_ended = self.has_ended.tolist()
        num_live = has_ended.count(False)
        if num_live == 0 or _rounded_rows(num_live) >= self.num_rows:
            return num_live > 0
        buffers = self.buffers
        sources, targets = (moved.to(self.order.device) for moved in closed_ranks(has_ended))
        for layer in buffers.layers:
            layer.move(sources, targets)
        moving = (buffers.chosen, buffers.chosen_logprobs, buffers.positions, buffers.padding)
        for values in (*moving, self.order, self.has_ended):
            values[targets] = values[sources]
        self.order, self.has_ended = self.order[:num_live], self.has_ended[:num_live]
        self.num_rows = _rounded_rows(num_live)
        return True

    def forward(self, draws: Tensor) -> None:
        """Append the chosen tokens and choose the next ones with these draws, one per completion."""
        buffers = self.buffers
        buffers.tokens.copy_(buffers.chosen)
        buffers.draws[: len(self.order)] = draws[self.order]
        buffers.positions += 1
        buffers.slot += 1
        self.num_filled += 1
        buffers.run(self.num_rows, min(_rounded_columns(self.num_filled), buffers.num_columns))


def _buffer(states: Tensor | None, num_rows: int, num_columns: int) -> Tensor:
    assert states is not None
    # zeros: a masked column counts nothing, but 0 times NaN would be NaN
    return states.new_zeros(num_rows, states.shape[1], num_columns, states.shape[3])


def _addresses(model: PreTrainedModel) -> tuple[int, ...]:
    return tuple(weight.data_ptr() for weight in model.parameters())


def _captured(step: Callable[[], None], pool: Any) -> Callable[[], None]:
    """Return a call that replays the step's kernels as one launch."""
    # Libraries set themselves up in their first calls, which cannot be captured.
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        step()
    return graph.replay


@contextmanager
def _attention(model: PreTrainedModel) -> Iterator[None]:
    """Let the model attend through `static_cache`."""
    before = str(model.config._attn_implementation)
    model.set_attn_implementation(NAME)
    try:
        yield
    except ValueError as error:
        raise InputError(
            f"cannot sample from a {model.config.model_type} model with rollout.cache static: "
            f"{error}; use rollout.cache dynamic"
        ) from error
    finally:
        model.set_attn_implementation(before)
