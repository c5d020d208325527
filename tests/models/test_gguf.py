"""GGUF files, written here by the `gguf` package as llama.cpp writes them, read back as models."""

import importlib.util
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize, quantize
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from uniapl.models.gguf import convert, load_gguf, main
from uniapl.models.language_model import load_language_model
from uniapl.types import InputError

Q8 = gguf.GGMLQuantizationType.Q8_0
HEADS, KEY_HEADS = 4, 2
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
TOKENS = ["<|end|>", "<|user|>", *"abc123Ċ Ġ".replace(" ", ""), "ĊĊ"]
TEMPLATE = "{% for m in messages %}<|user|>{{ m['content'] }}<|end|>{% endfor %}"


@pytest.fixture(autouse=True)
def _double():
    """Files hold float32; the float64 of the neighbouring tests would only be rounded."""


@pytest.fixture(scope="module")
def tiny_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
        intermediate_size=64,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).float()


def as_gguf(model: LlamaForCausalLM, file: Path, pre: str = "smollm") -> Path:
    """Write the model with 8-bit matrices; the model gets the rounded values, to compare with."""
    writer = gguf.GGUFWriter(file, "llama")
    config = model.config
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_rope_dimension_count(config.hidden_size // HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3] + [1] * (len(TOKENS) - 2))
    writer.add_token_merges(["Ċ Ċ"])
    writer.add_eos_token_id(0)
    writer.add_chat_template(TEMPLATE)
    for name, parameter in model.named_parameters():
        _add_tensor(writer, name, parameter)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _add_tensor(writer: gguf.GGUFWriter, name: str, parameter: torch.nn.Parameter) -> None:
    parts = name.removesuffix(".weight").split(".")
    if parts[1] == "layers":
        target = f"blk.{parts[2]}.{NAMES['.'.join(parts[3:])]}.weight"
    else:
        target = {"embed_tokens": "token_embd", "norm": "output_norm"}[parts[1]] + ".weight"
    values = parameter.detach().numpy()
    if values.ndim == 1:
        writer.add_tensor(target, values)
        return
    rounded = dequantize(quantize(values, Q8), Q8)
    parameter.data = torch.from_numpy(rounded.copy())
    if parts[-1] in ("q_proj", "k_proj"):  # llama.cpp keeps the two halves of a head interleaved
        heads = HEADS if parts[-1] == "q_proj" else KEY_HEADS
        halves = values.reshape(heads, 2, -1, values.shape[1])
        values = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)
    writer.add_tensor(target, quantize(values, Q8), raw_dtype=Q8)


@pytest.fixture(scope="module")
def file(tiny_llama: LlamaForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return as_gguf(tiny_llama, tmp_path_factory.mktemp("gguf") / "tiny.gguf")


ROW = torch.tensor([[1, 3, 4, 2, 5, 0]])


@torch.no_grad()
def test_a_file_is_a_model_like_any_other(
    tiny_llama: LlamaForCausalLM, file: Path, tmp_path: Path
) -> None:
    policy, tokenizer = load_language_model(str(file), torch.float32, torch.device("cpu"))
    policy.model.set_attn_implementation("sdpa")
    expected = tiny_llama(ROW).logits
    torch.testing.assert_close(policy.model(ROW).logits, expected)
    assert tokenizer.chat_template == TEMPLATE
    assert tokenizer.eos_token == "<|end|>"
    policy.save(tmp_path / "saved", tokenizer, torch.float32)
    reopened = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert not hasattr(reopened.config, "quantization_config")
    torch.testing.assert_close(reopened(ROW).logits, expected)


def test_digits_stand_apart_where_the_vocabulary_was_learned_so(
    tiny_llama: LlamaForCausalLM, file: Path, tmp_path: Path
) -> None:
    _, tokenizer = load_gguf(file)
    assert tokenizer.tokenize("a\n\n1") == ["a", "ĊĊ", "1"]
    assert tokenizer.tokenize("a\n\nb") == ["a", "Ċ", "Ċ", "b"]
    _, other = load_gguf(as_gguf(tiny_llama, tmp_path / "other.gguf", pre="gpt-2"))
    assert other.tokenize("a\n\n1") == ["a", "Ċ", "Ċ", "1"]


@torch.no_grad()
def test_the_command_keeps_it_as_a_folder(
    tiny_llama: LlamaForCausalLM,
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "models" / "kept"
    monkeypatch.setattr(sys, "argv", ["gguf", str(file), str(folder)])
    assert main() == 0
    model = AutoModelForCausalLM.from_pretrained(folder)
    torch.testing.assert_close(model(ROW).logits, tiny_llama(ROW).logits)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.tokenize("a\n\n1") == ["a", "ĊĊ", "1"]
    assert tokenizer.chat_template == TEMPLATE
    assert [entry.name for entry in folder.parent.iterdir()] == ["kept"]
    assert main() == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {folder}: exists already"


def test_what_is_wrong_is_one_line(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"no\.gguf: no such file$"):
        convert(tmp_path / "no.gguf", tmp_path / "kept")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\x03\0\0\0" + b"\0" * 20)
    with pytest.raises(InputError, match=r"^model.path: cannot load .*broken\.gguf'"):
        load_language_model(str(broken), torch.float32, torch.device("cpu"))
    with pytest.raises(InputError, match=r"broken\.gguf: cannot be read: "):
        convert(broken, tmp_path / "kept")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"reading GGUF needs gguf: pip install 'uniapl\[gguf\]'$"):
        load_gguf(file)
