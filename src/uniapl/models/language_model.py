"""A causal language model that reads packed rows: the policy, the reference and p_φ of the discriminator."""

import copy
import gc
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from uniapl.distributed import ALONE, Ranks
from uniapl.distributed.sharding import (
    Unloaded,
    drop_weights,
    gather_into,
    shard,
    without_weights,
)
from uniapl.models import gguf, packed_attention
from uniapl.models.adapters import (
    AdaptedBackbone,
    LoraShape,
    Role,
    find_base,
    merge_adapter,
    widen,
)
from uniapl.models.loading import (
    check_names,
    check_tokens,
    empty_model,
    load_config,
    load_tokenizer,
    load_weights,
    refusing,
)
from uniapl.models.model_source import ModelSource, find_model
from uniapl.models.packing import Packed
from uniapl.models.packing_check import check_packing
from uniapl.models.recomputation import recomputable_layers, recomputed
from uniapl.models.saving import follow_umask
from uniapl.models.target_logprobs import is_plain, target_logprobs

LOGIT_CHUNK_TOKENS = 1024
"""Positions whose full-vocabulary logits exist at the same time: 0.6 GB in float32 with 152,000 words."""


class LanguageModel(nn.Module):
    """A transformers model with packed forwards.

    Weights that learn are float32; with `dtype` bfloat16 the forward runs under autocast, so that updates
    smaller than bfloat16's resolution are not lost. With a `role` the model's own weights are frozen and
    shared with other roles.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        dtype: torch.dtype,
        logit_chunk_tokens: int = LOGIT_CHUNK_TOKENS,
        role: Role | None = None,
        *,
        recomputes_layers: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.dtype = dtype
        self.logit_chunk_tokens = logit_chunk_tokens
        self.role = role
        self.recomputes_layers = recomputes_layers
        self.is_sharded = False
        self._whole: list[PreTrainedModel] = []  # in a list: it is no part of this module
        self._keeps_whole = False
        self._unloaded: Unloaded | None = None
        # no dropout: a ratio of two forwards must be 1 where the weights are equal
        self.model.eval()

    @property
    def device(self) -> torch.device:
        """Where the weights live, or will once they are shared out."""
        return self._unloaded.device if self._unloaded else next(self.model.parameters()).device

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Return the weights that learn: an adapter's, or all."""
        if self.role:
            return self.role.parameters()
        return [p for p in self.parameters() if p.requires_grad]

    @property
    def head(self) -> nn.Module:
        """The layer from hidden states to logits."""
        head = self.model.get_output_embeddings()
        assert head is not None
        return head

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which forwards run."""
        if self.dtype == torch.float32:
            # exact also inside another model's autocast
            return torch.autocast(self.device.type, enabled=False)
        return torch.autocast(self.device.type, self.dtype)

    def acting(self) -> AbstractContextManager[None]:
        """Return the context in which the model is this role: no other adapter acts."""
        return self.role.backbone.acting(self.role.name) if self.role else nullcontext()

    def _recomputing(self) -> AbstractContextManager[None]:
        """Return the context of a forward: one that will have a backward pass keeps each layer's input only."""
        if not (self.recomputes_layers and torch.is_grad_enabled()):
            return nullcontext()
        return recomputed(recomputable_layers(self.model), self.acting)

    def hidden_states(self, packed: Packed) -> Tensor:
        """Return the last layer's hidden states [tokens, width] of a packed row on the model's device.

        Raises:
            ValueError: transformers names no part of the model that makes hidden states, or a layer's attention
                asks for something that packed attention does not know.
        """
        if self.model.base_model is self.model:
            raise ValueError("transformers does not say which part of it makes hidden states")
        if self.model.config._attn_implementation != packed_attention.NAME:
            self.model.set_attn_implementation(packed_attention.NAME)
        with self.acting(), self.autocast(), self._recomputing():
            output = self.model.base_model(
                input_ids=packed.input_ids[None],
                position_ids=packed.position_ids[None],
                # nothing is padding; without a mask transformers would take a step back in positions for the
                # border between two sequences that must not see each other
                attention_mask=torch.ones_like(packed.input_ids, dtype=torch.bool)[None],
                use_cache=False,
                packed_blocks=packed.blocks,
                packed_positions=packed.position_ids,
                packed_masks={},
            )
        return output.last_hidden_state[0]

    def logprobs(self, packed: Packed, temperature: Tensor | float = 1.0) -> Tensor:
        """Return log π(target | before) of every completion token, nats [targets], at least float32.

        Args:
            packed: The micro-batch, on the model's device.
            temperature: Divides the logits; a tensor [targets] gives one per target.

        Returns:
            [targets], in the order of `packed.target_ids` and with gradient, nothing reduced. A model's own scale
            and cap of its logits are applied as in transformers.

        Raises:
            ValueError: As `hidden_states`.
        """
        hidden = self.hidden_states(packed)[packed.sources]
        temperatures = torch.as_tensor(temperature, device=hidden.device).expand(len(hidden))
        scale = getattr(self.model.config.get_text_config(), "logits_scaling", None) or 1.0
        states = hidden / (scale * temperatures)[:, None]
        if self._head_is_plain(states.dtype):
            if self.dtype != torch.float32:  # what autocast multiplies in
                states = states.to(self.dtype)
            weight = self.head.get_parameter("weight")
            with torch.autocast(self.device.type, enabled=False):
                return target_logprobs(states, weight, packed.target_ids, self.logit_chunk_tokens)
        chunks = zip(
            hidden.split(self.logit_chunk_tokens),
            packed.target_ids.split(self.logit_chunk_tokens),
            temperatures.split(self.logit_chunk_tokens),
            strict=True,
        )
        # Full-vocabulary logits of one chunk exist at a time; the backward pass makes them anew.
        if torch.is_grad_enabled():
            parts = [checkpoint(self._chunk_logprobs, *c, use_reentrant=False) for c in chunks]
        else:
            parts = [self._chunk_logprobs(*c) for c in chunks]
        return torch.cat(parts)

    def _head_is_plain(self, dtype: torch.dtype) -> bool:
        """Whether logits are a product of hidden states of this number type and the head's weight, and nothing else."""
        head, config = self.head, self.model.config.get_text_config()
        return (
            is_plain(head)
            and not getattr(config, "final_logit_softcapping", None)
            and head.weight.dtype
            in ((dtype,) if self.dtype == torch.float32 else (dtype, self.dtype))
        )

    def _chunk_logprobs(self, hidden: Tensor, target_ids: Tensor, temperatures: Tensor) -> Tensor:
        """Return the log-probs of a chunk's targets, nats, [chunk], at least float32.

        Args:
            hidden: What predicts them, [chunk, width].
            target_ids: [chunk].
            temperatures: [chunk].
        """
        with self.autocast():
            logits = self.head(hidden)
        # bfloat16 logits are too coarse for a ratio; a float64 model keeps its precision
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        config = self.model.config.get_text_config()
        if scale := getattr(config, "logits_scaling", None):
            logits = logits / scale
        if cap := getattr(config, "final_logit_softcapping", None):
            logits = cap * torch.tanh(logits / cap)
        logits = logits / temperatures[:, None]
        return logits.gather(1, target_ids[:, None]).squeeze(1) - logits.logsumexp(1)

    @torch.no_grad()
    def flat_logprobs(
        self,
        micro_batches: Sequence[Packed],
        num_tokens: int,
        temperature: float = 1.0,
        ranks: Ranks = ALONE,
    ) -> Tensor:
        """Return log-probs of all completion tokens in the order of the list that was packed, without gradient.

        Args:
            micro_batches: All that `pack` made of a list, on any device.
            num_tokens: Completion tokens of that list.
            temperature: Divides the logits.
            ranks: Each forwards some of the micro-batches; all get all log-probs.

        Returns:
            [num_tokens], nats, float32 (float64 where that is torch's default); where no micro-batch holds a token NaN,
            or 0 with several ranks.
        """
        flat = ranks.blank(num_tokens, self.device)
        for packed, is_own in ranks.deal(micro_batches):
            packed = packed.to(self.device)
            logprobs = self.logprobs(packed, temperature)
            if is_own:
                flat[packed.token_index] = logprobs
        ranks.sum_([flat], "the log-probs of completions")
        return flat

    def save(self, folder: Path, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype) -> None:
        """Write an ordinary model folder that transformers and vLLM open, an adapter merged into the weights.

        Args:
            folder: Where to; made if it is not there.
            tokenizer: Saved beside the weights.
            dtype: The number type of the weights in the file; those of this model stay what they are.
        """
        model = self.merged()
        is_copy = self.role is not None or dtype != torch.float32
        if dtype != torch.float32:
            model = copy.deepcopy(model) if model is self.model else model
            nn.Module.to(model, dtype)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        follow_umask(folder)
        if is_copy:  # full of cycles, and as large as the policy
            del model
            gc.collect()

    def merged(self) -> PreTrainedModel:
        """Return an ordinary model: a copy with the adapter merged into the weights, or `whole`."""
        return self.role.backbone.plain(merged=self.role.name) if self.role else self.whole

    @property
    def whole(self) -> PreTrainedModel:
        """The model with all weights on this rank; where they are shared out, a copy that has them while `gathered`."""
        return self._whole[0] if self._whole else self.model

    @contextmanager
    def gathered(self, device: torch.device | None) -> Iterator[None]:
        """Within, `whole` has all weights, as they are now; collective where weights are shared out.

        Args:
            device: Where it has them; None on a rank that only sends its part.
        """
        if not self.is_sharded:
            yield
            return
        gather_into(self.whole, self.model, device)
        try:
            yield
        finally:
            if not self._keeps_whole:
                drop_weights(self.whole)

    def shard(
        self,
        root: nn.Module | None = None,
        methods: Sequence[str] = ("logprobs",),
        *,
        keeps_whole: bool = False,
    ) -> None:
        """Share the weights out over the ranks.

        Args:
            root: What holds this model and is called in its place; None: this model.
            methods: The root's, which compute.
            keeps_whole: Whether gathered weights stay, in their place: captured graphs read them there.

        Raises:
            InputError: The model's layers are not known.
        """
        layers = recomputable_layers(self.model, "training.sharding: full")
        self._whole = [without_weights(self.model)]
        self._keeps_whole = keeps_whole
        self.is_sharded = True
        names = {id(weight): name for name, weight in self.model.named_parameters()}
        shard(root or self, layers, methods, self._unloaded, names)
        self._unloaded = None

    def save_trained(self, folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
        """Write what `load` reads: a float32 model folder, or the adapter alone into a folder that must not exist."""
        if self.role is None:
            self.save(folder, tokenizer, torch.float32)
            return
        folder.mkdir()
        self.role.save(folder)
        tokenizer.save_pretrained(folder)

    def load(self, folder: Path) -> None:
        """Take over the weights that `save_trained` wrote, bit for bit.

        Raises:
            InputError: They are damaged, or another model's.
        """
        if self.role:
            self.role.load(folder)
            return
        with refusing("cannot load the saved model", str(folder)):
            saved = _load_plain(find_model(str(folder)))
            self.model.load_state_dict(saved.state_dict())

    def with_adapter(self, name: str, shape: LoraShape) -> "LanguageModel":
        """Return the model that a new adapter makes of this one, whose weights it freezes and shares.

        Args:
            name: Of the adapter; one that the backbone does not have yet.
            shape: How large it is, and on which layers.

        Raises:
            InputError: peft is missing, or the target modules do not suit the model.
        """
        backbone = self.role.backbone if self.role else AdaptedBackbone(self.model)
        return self._playing(backbone.add(name, shape))

    def reference(self) -> "LanguageModel":
        """Return the frozen model before training: an adapter's own backbone, else a copy."""
        if self.role:
            return self._playing(Role(self.role.backbone, None))
        return self.trainable_copy().requires_grad_(False)

    def trainable_copy(self) -> "LanguageModel":
        """Return a copy with float32 weights of its own; of an adapter's backbone without the adapter."""
        model = self.role.backbone.plain(merged=None) if self.role else copy.deepcopy(self.model)
        if self.role:
            widen(model.requires_grad_(True).parameters())
        made = LanguageModel(
            model, self.dtype, self.logit_chunk_tokens, recomputes_layers=self.recomputes_layers
        )
        made._unloaded = self._unloaded
        return made

    def _playing(self, role: Role) -> "LanguageModel":
        return LanguageModel(
            self.model,
            self.dtype,
            self.logit_chunk_tokens,
            role,
            recomputes_layers=self.recomputes_layers,
        )


def store_weights(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Change the number type of the weights in place, not of buffers: positions would be rounded."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def load_language_model(
    path: str,
    dtype: torch.dtype,
    device: torch.device,
    *,
    key: str = "model.path",
    ranks: Ranks = ALONE,
) -> tuple[LanguageModel, PreTrainedTokenizerBase]:
    """Load a model and its tokenizer, weights in float32.

    Where weights will be shared out, the first rank alone reads them, on its CPU; the model has none until `shard`.

    Args:
        path: A model folder, a run's (its policy), an adapter's (merged into its base model), a GGUF file, or a name on
            the hub.
        dtype: The number type of forwards.
        device: Where the weights go.
        key: What the user gave the path as, for messages.
        ranks: Those that will share the weights out, if they are in lockstep.

    Raises:
        InputError: Nothing loadable is there, weights are missing, or the model computes something that packing cannot.
    """
    if ranks.in_lockstep:
        return _load_unshared(path, dtype, device, key, ranks)
    with refusing(f"{key}: cannot load", path):
        model, tokenizer = _load(path)
        check_tokens(tokenizer, model, (tokenizer.eos_token_id, tokenizer.bos_token_id))
    nn.Module.to(model, device)
    check_packing(LanguageModel(model, torch.float32), f"{key}: {path!r}")
    return LanguageModel(model, dtype), tokenizer


def _load_unshared(
    path: str, dtype: torch.dtype, device: torch.device, key: str, ranks: Ranks
) -> tuple[LanguageModel, PreTrainedTokenizerBase]:
    read: list[PreTrainedModel] = []

    def make() -> tuple[Any, ...]:
        loaded, tokenizer = load_language_model(path, dtype, torch.device("cpu"), key=key)
        model = loaded.model
        check_names(model, f"{key}: {path!r}")
        read.append(model)
        return model.config, model.generation_config, dict(model.named_buffers()), tokenizer

    config, generation_config, buffers, tokenizer = ranks.on_first(make, f"loading {key}")
    model = empty_model(config)
    model.generation_config = generation_config
    # what is computed once, such as the frequencies of positions
    for name, buffer in buffers.items():
        place, _, own = name.rpartition(".")
        model.get_submodule(place)._buffers[own] = buffer.to(device)
    made = LanguageModel(model, dtype)
    made._unloaded = Unloaded(device, dict(read[0].named_parameters()) if read else None)
    return made, tokenizer


def _load(path: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if path.endswith(gguf.SUFFIX) and Path(path).expanduser().is_file():
        return gguf.load_gguf(Path(path).expanduser())
    source = find_model(path)
    if not source.is_adapter:
        return _load_plain(source), load_tokenizer(source)
    base = find_base(Path(source.place))
    model = merge_adapter(_load_plain(base), Path(source.place))
    has_tokenizer = (Path(source.place) / "tokenizer_config.json").is_file()
    return model, load_tokenizer(source if has_tokenizer else base)


def _load_plain(source: ModelSource) -> PreTrainedModel:
    return load_weights(AutoModelForCausalLM, source, load_config(source), torch.float32)
