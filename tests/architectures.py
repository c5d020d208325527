"""Tiny random models of many architectures, and what this project says of each: right, or why it is refused."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

VOCABULARY = 64
WIDE = 50
"""A window that no test's sequence reaches past."""

_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "head_dim": 4,
}
_BOTH_LAYERS = {"layer_types": ["sliding_attention", "full_attention"]}
_DIFFERS = "computes attention or logits that packing does not know"


@dataclass(frozen=True)
class Architecture:
    """A configuration class of transformers, and what becomes of its models here."""

    settings: dict[str, Any]
    """Over the common shape."""
    window: str | None = None
    """The setting that says how far a layer sees."""
    refused: str | None = None
    """What the refusal says; None: it is packed and sampled right."""


def _plain(**settings: Any) -> Architecture:
    return Architecture({"head_dim": 8, **settings})


def _windowed(**settings: Any) -> Architecture:
    return Architecture({"head_dim": 8, **settings}, window="sliding_window")


def _refused(because: str, window: str | None = None, **settings: Any) -> Architecture:
    return Architecture(settings, window, because)


ARCHITECTURES: dict[str, Architecture] = {
    "apertus": _plain(),
    "bitnet": _plain(),
    "cohere": _refused(_DIFFERS),  # its logits are scaled
    "cohere2": _refused(_DIFFERS, "sliding_window", **_BOTH_LAYERS),
    "ctrl": _plain(dff=48),
    "deepseek_v2": _plain(
        **_LATENT, n_routed_experts=4, num_experts_per_tok=2, n_group=1, moe_intermediate_size=16
    ),
    "deepseek_v3": _plain(
        **_LATENT,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        moe_intermediate_size=16,
        first_k_dense_replace=1,
    ),
    "diffllama": _plain(),  # attends to something else than its cached values
    "ernie4_5": _plain(),
    "exaone4": _windowed(sliding_window_pattern=2, **_BOTH_LAYERS),
    "falcon_mamba": _refused("it has layers of type linear_attention", state_size=8),
    "gemma": _plain(),
    "gemma2": _windowed(attn_logit_softcapping=None, **_BOTH_LAYERS),
    "gemma3_text": _windowed(**_BOTH_LAYERS),
    "gemma4_text": _windowed(
        hidden_size_per_layer_input=8, vocab_size_per_layer_input=VOCABULARY, **_BOTH_LAYERS
    ),
    "glm4": _plain(),
    "gpt2": _plain(n_inner=48),
    "gpt_bigcode": _plain(n_inner=48),
    "gpt_neox": _plain(),
    "gpt_oss": _refused("its attention uses s_aux", "sliding_window", **_EXPERTS),
    "gptj": _refused(_DIFFERS, rotary_dim=8, n_inner=48),  # attends by code of its own
    "granite": _plain(logits_scaling=3.0, embedding_multiplier=2.0),
    "granitemoe": _plain(**_EXPERTS),
    "helium": _plain(),
    "lfm2": _refused("it has layers of type conv", layer_types=["conv", "full_attention"]),
    "llama": _plain(),
    "llama4_text": _refused(
        "transformers does not say which part of it makes hidden states",
        "attention_chunk_size",
        head_dim=8,
        intermediate_size_mlp=48,
        **_EXPERTS,
    ),
    "mistral": _windowed(),
    "mixtral": _windowed(**_EXPERTS),
    "modernbert-decoder": _refused(_DIFFERS, "sliding_window"),  # its head is not a matrix
    "mpt": _refused(_DIFFERS),  # biases by distance
    "olmo2": _plain(),
    "olmo3": _windowed(**_BOTH_LAYERS),
    "opt": _plain(ffn_dim=48, word_embed_proj_dim=32),
    "phi": _plain(),
    "phi3": _windowed(),
    "phimoe": _windowed(**_EXPERTS),
    "qwen2": _windowed(use_sliding_window=True, **_BOTH_LAYERS),
    "qwen2_moe": _windowed(
        use_sliding_window=True,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        **_BOTH_LAYERS,
    ),
    "qwen3": _windowed(use_sliding_window=True, **_BOTH_LAYERS),
    "qwen3_moe": _plain(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16),
    "qwen3_next": _refused(
        "it has layers of type linear_attention",
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        layer_types=["linear_attention", "full_attention"],
    ),
    "rwkv": _refused(_DIFFERS),  # carries a state
    "smollm3": _plain(),
    "stablelm": _refused("cannot run packed"),  # keeps the forward's arguments to itself
    "starcoder2": _windowed(),
}
RIGHT = sorted(name for name, found in ARCHITECTURES.items() if found.refused is None)


def build(name: str, window: int) -> PreTrainedModel:
    """Return a model whose weights are so large that a token depends on all that it sees.

    Args:
        name: Of the architecture.
        window: Tokens that a layer sees, where it has a window.
    """
    architecture = ARCHITECTURES[name]
    kind = CONFIG_MAPPING[name]
    settings = {**_SHAPE, **architecture.settings}
    if architecture.window:
        settings[architecture.window] = window
    # old configurations have names of their own for some of the shape
    config = kind(**{kind.attribute_map.get(key, key): value for key, value in settings.items()})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() >= 2:
                weight.normal_(std=1.7 * weight.shape[-1] ** -0.5)
        # but no next token is certain
        model.get_output_embeddings().weight.mul_(0.3)
    return model
