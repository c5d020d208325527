"""A causal language model that reads packed rows: the policy, the reference and p_φ of the discriminator."""

import copy
import gc
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from uniapl.models import gguf, packed_attention
from uniapl.models.adapters import AdaptedBackbone, LoraShape, Role, widen
from uniapl.models.packing import Packed, TokenSequence, pack
from uniapl.models.recomputation import recomputable_layers, recomputed
from uniapl.models.target_logprobs import is_plain, target_logprobs
from uniapl.types import InputError

CHECK_TOLERANCE = 2e-3
"""Nats by which packed and plain log-probs may differ in float32 before a model counts as unsupported."""


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
        # no dropout: a ratio of two forwards must be 1 where the weights are equal
        self.model.eval()

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return next(self.model.parameters()).device

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
        if not (self.recomputes_layers and torch.is_grad_enabled()):
            return nullcontext()
        return recomputed(recomputable_layers(self.model), self.acting)

    def hidden_states(self, packed: Packed) -> Tensor:
        """Return the last layer's hidden states [tokens, width] of a packed row on the model's device."""
        if self.model.config._attn_implementation != packed_attention.NAME:
            self.model.set_attn_implementation(packed_attention.NAME)
        with self.acting(), self.autocast(), self._recomputing():
            output = self.model.base_model(
                input_ids=packed.input_ids[None],
                position_ids=packed.position_ids[None],
                attention_mask=None,
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
            temperature: Divides the logits; a tensor gives one per target.
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
        head, config = self.head, self.model.config.get_text_config()
        return (
            is_plain(head)
            and not getattr(config, "final_logit_softcapping", None)
            and head.weight.dtype
            in ((dtype,) if self.dtype == torch.float32 else (dtype, self.dtype))
        )

    def _chunk_logprobs(self, hidden: Tensor, target_ids: Tensor, temperatures: Tensor) -> Tensor:
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
        self, micro_batches: Sequence[Packed], num_tokens: int, temperature: float = 1.0
    ) -> Tensor:
        """Return log-probs of all completion tokens in the order of the packed list, without gradient."""
        flat = torch.full((num_tokens,), torch.nan, device=self.device)
        for packed in micro_batches:
            flat[packed.token_index] = self.logprobs(packed, temperature)
        return flat

    def save(self, folder: Path, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype) -> None:
        """Write an ordinary model folder, the weights as `dtype`, that transformers and vLLM open.

        An adapter is merged into the weights.
        """
        model = self.merged()
        if dtype != torch.float32:
            model = copy.deepcopy(model) if model is self.model else model
            nn.Module.to(model, dtype)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        del model
        gc.collect()  # a merged copy is full of cycles, and as large as the policy

    def merged(self) -> PreTrainedModel:
        """Return an ordinary model: a copy with the adapter merged into the weights, or the model itself."""
        return self.role.backbone.plain(merged=self.role.name) if self.role else self.model

    def save_trained(self, folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
        """Write what `load` reads: a float32 model folder, or the adapter alone."""
        if self.role is None:
            self.save(folder, tokenizer, torch.float32)
            return
        folder.mkdir()
        self.role.save(folder)
        tokenizer.save_pretrained(folder)

    def load(self, folder: Path) -> None:
        """Take over the weights that `save_trained` wrote, bit for bit."""
        if self.role:
            self.role.load(folder)
            return
        saved = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.model.load_state_dict(saved.state_dict())

    def with_adapter(self, name: str, shape: LoraShape) -> "LanguageModel":
        """Return the model that a new adapter makes of this one, whose weights it freezes and shares."""
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
        return LanguageModel(
            model, self.dtype, self.logit_chunk_tokens, recomputes_layers=self.recomputes_layers
        )

    def _playing(self, role: Role) -> "LanguageModel":
        return LanguageModel(
            self.model,
            self.dtype,
            self.logit_chunk_tokens,
            role,
            recomputes_layers=self.recomputes_layers,
        )


def store_weights(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Change the number type of the weights, not of buffers: positions would be rounded."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def load_language_model(
    path: str, dtype: torch.dtype, device: torch.device
) -> tuple[LanguageModel, PreTrainedTokenizerBase]:
    """Load a model and its tokenizer from a folder, a GGUF file or the hub, weights in float32.

    Raises:
        InputError: Nothing loadable is there, or the model computes something that packing cannot.
    """
    disable_progress_bar()  # its bars would tear the run's own lines
    try:
        if path.endswith(gguf.SUFFIX) and Path(path).is_file():
            model, tokenizer = gguf.load_gguf(Path(path))
        else:
            tokenizer = AutoTokenizer.from_pretrained(path)
            model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        missing = "" if Path(path).exists() else " (no such folder here)"
        raise InputError(f"model.path: cannot load {path!r}{missing}: {reason}") from error
    language_model = LanguageModel(model, dtype).to(device)
    check_packing(language_model, path)
    return language_model, tokenizer


@torch.no_grad()
def check_packing(language_model: LanguageModel, path: str) -> None:
    """Compare packed with plain log-probs on a few tokens.

    Raises:
        InputError: They differ: the architecture has attention or logits that packing does not know.
    """
    model = language_model.model
    size = model.config.get_text_config().vocab_size
    ids = [(7 * i + 3) % size for i in range(12)]
    sequences = [
        TokenSequence(tuple(ids[:4]), tuple(ids[4:10])),
        TokenSequence(tuple(ids[:4]), tuple(ids[6:9])),
        TokenSequence(tuple(ids[5:7]), tuple(ids[7:12])),
    ]
    exact = LanguageModel(model, torch.float32)
    expected = []
    if hasattr(model, "set_attn_implementation"):
        model.set_attn_implementation("sdpa" if model._supports_sdpa else "eager")
    for sequence in sequences:
        row = torch.tensor([(*sequence.prompt_ids, *sequence.completion_ids)], device=exact.device)
        with exact.autocast():
            logprobs = model(row, use_cache=False).logits[0].float().log_softmax(-1)
        start = len(sequence.prompt_ids)
        expected.append(logprobs[start - 1 : -1].gather(1, row[0, start:, None]).squeeze(1))
    (packed,) = pack(sequences, 1000)
    try:
        flat = exact.flat_logprobs([packed.to(exact.device)], sum(map(len, expected)))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"model.path: {path!r} ({type(model).__name__}) cannot run packed: {error}"
        ) from error
    if not torch.allclose(flat, torch.cat(expected), atol=CHECK_TOLERANCE):
        gap = (flat - torch.cat(expected)).abs().max().item()
        raise InputError(
            f"model.path: {path!r} ({type(model).__name__}) computes attention or logits that "
            f"packing does not know (log-probs differ by {gap:.3g} nats)"
        )
