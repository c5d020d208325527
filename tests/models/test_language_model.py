from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from exact import (
    VOCABULARY,
    assert_close,
    assert_same_gradients,
    exact_model,
    exact_policy,
    gradients,
    plain_logprobs,
)
from tiny import save_tiny_model, tiny_model, tiny_tokenizer
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    PreTrainedModel,
)

from uniapl.models import language_model
from uniapl.models.language_model import LanguageModel, check_packing, load_language_model
from uniapl.models.packing import Packed, TokenSequence, completion_offsets, pack
from uniapl.models.target_logprobs import target_logprobs
from uniapl.types import InputError


def some_sequences(num: int = 12) -> list[TokenSequence]:
    """Shared prompts, lengths from 1 to 12, a prompt that is the beginning of another."""
    generator = torch.Generator().manual_seed(1)

    def draw(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(5, VOCABULARY, (length,), generator=generator).tolist())

    long = draw(9)
    prompts = [long, long[:4], draw(1), draw(3)]
    return [TokenSequence(prompts[i % 4], draw(1 + (5 * i) % 12)) for i in range(num)]


def packed_logprobs(
    policy: LanguageModel, sequences: list[TokenSequence], budget: int, temperature: float = 1.0
) -> Tensor:
    """Flat log-probs with gradient, put back in order by token_index."""
    parts = pack(sequences, budget)
    values = torch.cat([policy.logprobs(p, temperature) for p in parts])
    index = torch.cat([p.token_index for p in parts])
    return torch.empty_like(values).index_copy(0, index, values)


SHAPES: dict[str, dict[str, Any]] = {
    "grouped queries": {},
    "all heads": {"num_key_value_heads": 4},
    "one head of keys": {"num_key_value_heads": 1},
    "untied": {"tie_word_embeddings": False},
    "sliding window": {
        "use_sliding_window": True,
        "sliding_window": 3,
        "layer_types": ["sliding_attention", "full_attention"],
    },
}


@pytest.mark.parametrize("budget", [1, 40, 10_000])
@pytest.mark.parametrize("shape", SHAPES)
def test_packed_equals_plain_forwards(shape: str, budget: int) -> None:
    policy = exact_policy(**SHAPES[shape])
    sequences = some_sequences()
    weights = torch.randn(completion_offsets(sequences)[-1])

    flat = packed_logprobs(policy, sequences, budget, temperature=0.7)
    (flat * weights).sum().backward()
    actual = gradients(policy.model)

    expected = torch.cat([plain_logprobs(policy.model, s, 0.7) for s in sequences])
    (expected * weights).sum().backward()
    assert_close(flat.detach(), expected.detach())
    assert_same_gradients(actual, gradients(policy.model))


def test_several_attention_blocks_equal_plain_forwards() -> None:
    policy = exact_policy()
    sequences = [
        TokenSequence((5 + i % 3, 9), tuple(range(6, 7 + (15 if i < 40 else 4)))) for i in range(50)
    ]
    (packed,) = pack(sequences, 10_000)
    assert len(packed.blocks) > 2
    flat = packed_logprobs(policy, sequences, 10_000)
    flat.square().sum().backward()
    actual = gradients(policy.model)
    expected = torch.cat([plain_logprobs(policy.model, s) for s in sequences])
    expected.square().sum().backward()
    assert_close(flat.detach(), expected.detach())
    assert_same_gradients(actual, gradients(policy.model))


def test_window_reaches_exactly_so_many_tokens() -> None:
    """One layer with a window of three: a token four back has no influence, one three back has."""
    policy = exact_policy(
        num_hidden_layers=1,
        use_sliding_window=True,
        sliding_window=3,
        layer_types=["sliding_attention"],
    )

    def last(*prompt_ids: int) -> float:
        (packed,) = pack([TokenSequence(prompt_ids, (9, 9))], 100)
        return policy.logprobs(packed)[-1].item()

    # what predicts the last 9 is the first 9: it sees itself and two more
    assert last(5, 6, 7) == last(20, 6, 7)
    assert last(5, 6, 7) != last(5, 20, 7)


@pytest.mark.parametrize("chunk", [1, 3, 10_000])
def test_chunk_size_changes_nothing(chunk: int) -> None:
    sequences = some_sequences()
    results = []
    for size in (chunk, 7):
        policy = exact_policy(logit_chunk_tokens=size)
        flat = packed_logprobs(policy, sequences, 10_000)
        flat.square().sum().backward()
        results.append((flat.detach(), gradients(policy.model)))
    assert_close(results[0][0], results[1][0])
    assert_same_gradients(results[0][1], results[1][1])


@pytest.mark.parametrize("chunk", [1, 5, 10_000])
@pytest.mark.parametrize("trained", ["all", "head", "body", "nothing"])
def test_one_buffer_equals_plain_logits(chunk: int, trained: str, monkeypatch) -> None:
    """Values and every gradient: the chunks in place against chunks by autograd."""
    results = []
    for plain in (True, False):
        policy = exact_policy(logit_chunk_tokens=chunk, tie_word_embeddings=False)
        policy.model.config.logits_scaling = 3.0
        policy.model.base_model.requires_grad_(trained in ("all", "body"))
        policy.head.requires_grad_(trained in ("all", "head"))
        monkeypatch.setattr(policy, "_head_is_plain", lambda _dtype, plain=plain: plain)
        (packed,) = pack(some_sequences(), 10_000)
        temperatures = torch.where(packed.token_index % 3 == 0, 0.5, 2.0)
        logprobs = policy.logprobs(packed, temperatures)
        if trained != "nothing":
            (logprobs.sin() * torch.arange(len(logprobs))).sum().backward()
        grads = {n: p.grad for n, p in policy.named_parameters() if p.grad is not None}
        assert logprobs.requires_grad == bool(grads) == (trained != "nothing")
        results.append((logprobs.detach(), grads))
    assert_close(results[0][0], results[1][0])
    if trained != "nothing":
        assert_same_gradients(results[0][1], results[1][1])


@pytest.mark.parametrize("chunk", [5, 10_000])
def test_every_backward_pass_gives_the_same_though_the_first_finds_logits(chunk: int) -> None:
    policy = exact_policy(logit_chunk_tokens=chunk)
    (packed,) = pack(some_sequences(), 10_000)
    loss = policy.logprobs(packed).square().sum()
    loss.backward(retain_graph=True)
    first = gradients(policy.model)
    loss.backward()
    assert_same_gradients(gradients(policy.model), first)


def test_ordinary_models_take_the_buffer(monkeypatch) -> None:
    """Tied or not, under autocast too; a bias, a hook, an adapter or a cap does not."""
    calls: list[int] = []

    def counted(hidden: Tensor, *args: Any) -> Tensor:
        calls.append(len(hidden))
        return target_logprobs(hidden, *args)

    monkeypatch.setattr(language_model, "target_logprobs", counted)
    (packed,) = pack(some_sequences(), 10_000)
    targets = len(packed.target_ids)

    def taken(policy: LanguageModel) -> int:
        calls.clear()
        # tests run in float64, which a Python number becomes
        policy.logprobs(packed, torch.ones((), dtype=torch.float32))
        return sum(calls)

    assert taken(exact_policy()) == taken(exact_policy(tie_word_embeddings=False)) == targets
    hooked, biased, capped = exact_policy(), exact_policy(), exact_policy()
    hooked.head.register_forward_hook(lambda _module, _args, output: output)
    biased.head.bias = torch.nn.Parameter(torch.ones(VOCABULARY))
    capped.model.config.final_logit_softcapping = 2.0
    adapted = exact_policy()
    adapted.head.forward = adapted.head.forward  # as a library would that wraps it
    assert [taken(p) for p in (hooked, biased, capped, adapted)] == [0] * 4
    for stored in (torch.float32, torch.bfloat16):
        policy = LanguageModel(tiny_model().to(stored), torch.bfloat16, 7)
        assert taken(policy) == targets


def test_the_buffer_under_autocast_is_as_near_to_exact_as_plain_logits(monkeypatch) -> None:
    (packed,) = pack(some_sequences(), 10_000)
    results = []
    for dtype, plain in ((torch.float32, True), (torch.bfloat16, False), (torch.bfloat16, True)):
        policy = LanguageModel(tiny_model().float(), dtype, 7)
        monkeypatch.setattr(policy, "_head_is_plain", lambda _dtype, plain=plain: plain)
        logprobs = policy.logprobs(packed, torch.tensor(0.7, dtype=torch.float32))
        assert logprobs.dtype == torch.float32
        logprobs.square().sum().backward()
        grads = torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])
        assert grads.dtype == torch.float32
        results.append((logprobs.detach(), grads))
    (exact, exact_grads), (chunks, chunk_grads), (buffer, buffer_grads) = results

    def distance(one: Tensor, other: Tensor) -> float:
        return ((one - other).norm() / other.norm()).item()

    assert 0 < distance(buffer, exact) < max(2e-3, 1.5 * distance(chunks, exact))
    assert 0 < distance(buffer_grads, exact_grads) < 1.5 * distance(chunk_grads, exact_grads)


def test_attention_is_in_float32_on_a_cpu_under_autocast(monkeypatch) -> None:
    attend, seen = torch.nn.functional.scaled_dot_product_attention, []

    def recorded(*states: Tensor, **options: Any) -> Tensor:
        attended = attend(*states, **options)
        seen.extend(tensor.dtype for tensor in (*states, attended))
        return attended

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", recorded)
    (packed,) = pack(some_sequences(), 10_000)
    policy = LanguageModel(tiny_model().float(), torch.bfloat16, 7)
    policy.logprobs(packed).sum().backward()
    assert set(seen) == {torch.float32}


def logprobs_without_kept_logits(policy: LanguageModel, packed: Packed) -> Tensor:
    """Log-probs; what waits for their backward pass are hidden states."""
    kept: list[tuple[int, ...]] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logprobs = policy.logprobs(packed)
    assert kept
    assert not any(shape[-1:] == (VOCABULARY,) for shape in kept if len(shape) == 2)
    return logprobs


def test_no_logits_wait_for_the_backward_pass() -> None:
    (packed,) = pack(some_sequences(), 10_000)
    assert len(logprobs_without_kept_logits(exact_policy(logit_chunk_tokens=5), packed))


def test_logits_of_one_chunk_exist_at_a_time() -> None:
    """Where the head is more than a product."""
    policy = exact_policy(logit_chunk_tokens=5)
    rows: list[int] = []
    policy.head.register_forward_hook(lambda _module, _args, output: rows.append(len(output)))
    (packed,) = pack(some_sequences(), 10_000)
    logprobs = logprobs_without_kept_logits(policy, packed)
    assert sum(rows) == len(packed.target_ids)
    logprobs.sum().backward()
    assert sum(rows) == 2 * len(packed.target_ids)
    assert max(rows) == 5


def test_temperature_per_target() -> None:
    policy = exact_policy()
    sequences = some_sequences(3)
    (packed,) = pack(sequences, 10_000)
    temperatures = torch.where(packed.token_index < 2, 0.5, 2.0)
    actual = policy.logprobs(packed, temperatures)
    cold, hot = policy.logprobs(packed, 0.5), policy.logprobs(packed, 2.0)
    assert_close(actual, torch.where(packed.token_index < 2, cold, hot))
    assert (cold - hot).abs().min() > 1e-6


def test_flat_logprobs_are_in_order_and_without_gradient() -> None:
    policy = exact_policy()
    sequences = some_sequences()
    num = completion_offsets(sequences)[-1]
    flat = policy.flat_logprobs(pack(sequences, 30), num, 0.7)
    assert not flat.requires_grad
    assert_close(flat, packed_logprobs(policy, sequences, 10_000, 0.7).detach())


def test_copies_are_independent() -> None:
    policy = exact_policy()
    (packed,) = pack(some_sequences(2), 1000)
    before = policy.logprobs(packed).detach()
    reference, twin = policy.reference(), policy.trainable_copy()
    assert not any(p.requires_grad for p in reference.parameters())
    assert all(p.requires_grad for p in (*policy.parameters(), *twin.parameters()))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.5)
    for other in (reference, twin):
        assert other.logprobs(packed).tolist() == before.tolist()
    assert not torch.allclose(policy.logprobs(packed), before)


def test_bfloat16_forwards_keep_float32_weights_and_logprobs() -> None:
    torch.set_default_dtype(torch.float32)
    (packed,) = pack(some_sequences(), 1000)
    exact, half = (LanguageModel(tiny_model(), t, 7) for t in (torch.float32, torch.bfloat16))
    dtypes: list[torch.dtype] = []
    half.head.register_forward_hook(lambda _module, _args, output: dtypes.append(output.dtype))
    expected, actual = exact.logprobs(packed), half.logprobs(packed)
    assert set(dtypes) == {torch.bfloat16}
    assert actual.dtype == torch.float32
    gap = (actual - expected).abs().max()
    assert 1e-4 < gap < 0.2
    actual.sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in half.parameters())


def small_gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    )


def llama_like(kind: Callable[..., Any]) -> Any:
    """Large enough weights that a wrong attention shows."""
    return kind(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=64,
        initializer_range=0.2,
    )


def test_models_of_other_families_pass_the_check() -> None:
    torch.set_default_dtype(torch.float32)
    granite = llama_like(GraniteConfig)
    granite.logits_scaling = 3.0
    for model in (tiny_model(), small_gpt2(), GraniteForCausalLM(granite)):
        check_packing(LanguageModel(model, torch.float32, 5), "here")


def test_final_softcap_is_applied() -> None:
    torch.set_default_dtype(torch.float32)
    gemma = llama_like(Gemma2Config)
    gemma.attn_logit_softcapping = None
    gemma.final_logit_softcapping = 2.0
    check_packing(LanguageModel(Gemma2ForCausalLM(gemma), torch.float32, 5), "here")


def test_attention_that_packing_does_not_know_is_refused() -> None:
    torch.set_default_dtype(torch.float32)
    bloom = BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.2)
    with pytest.raises(InputError, match="computes attention or logits that packing does not know"):
        check_packing(LanguageModel(BloomForCausalLM(bloom), torch.float32, 5), "here")
    gemma = Gemma2ForCausalLM(llama_like(Gemma2Config))
    with pytest.raises(InputError, match="cannot run packed: its attention uses softcap"):
        check_packing(LanguageModel(gemma, torch.float32, 5), "here")


def test_saved_model_is_an_ordinary_one_and_loads_back_bit_for_bit(tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float32)
    policy, _ = load_language_model(
        str(save_tiny_model(tmp_path / "base")), torch.float32, torch.device("cpu")
    )
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.01)
    (packed,) = pack(some_sequences(2), 1000)
    expected = policy.logprobs(packed)
    policy.save(tmp_path / "saved", tiny_tokenizer(), torch.float32)
    assert "uniapl" not in (tmp_path / "saved" / "config.json").read_text()
    other = LanguageModel(tiny_model(seed=5), torch.float32, 7)
    other.load(tmp_path / "saved")
    assert other.logprobs(packed).tolist() == expected.tolist()
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(plain.state_dict()["model.norm.weight"], policy.model.model.norm.weight)


def test_half_precision_save_leaves_the_policy_alone(tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float32)
    policy = LanguageModel(tiny_model(), torch.bfloat16, 7)
    before = {k: v.clone() for k, v in policy.model.state_dict().items()}
    policy.save(tmp_path, tiny_tokenizer(), torch.bfloat16)
    assert all(torch.equal(v, before[k]) for k, v in policy.model.state_dict().items())
    saved = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert next(saved.parameters()).dtype == torch.bfloat16


@pytest.mark.parametrize("what", ["missing", "empty"])
def test_unloadable_folders_are_input_errors(tmp_path: Path, what: str) -> None:
    folder = tmp_path / what
    if what == "empty":
        folder.mkdir()
    with pytest.raises(InputError, match=r"model\.path: cannot load") as error:
        load_language_model(str(folder), torch.float32, torch.device("cpu"))
    assert ("no such folder" in str(error.value)) == (what == "missing")
    assert "\n" not in str(error.value)


def test_exact_model_is_exact() -> None:
    """The float64 helper must not round anywhere on the way, or it would hide small errors."""
    model = exact_model()
    sequence = some_sequences(1)[0]
    expected = plain_logprobs(model, sequence)
    with torch.no_grad():
        model.lm_head.weight[:, 0] += 1e-13
    gap = (plain_logprobs(model, sequence) - expected).abs().max()
    assert 0 < gap < 1e-11
