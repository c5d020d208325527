import json
from pathlib import Path

import pytest
import torch
from exact import (
    assert_close,
    assert_same_gradients,
    exact_policy,
    gradients,
    plain_logprobs,
    with_random_adapter,
)
from peft import PeftModel
from tiny import tiny_model, tiny_tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM

from uniapl.errors import InputError
from uniapl.models.adapters import LoraShape
from uniapl.models.language_model import LanguageModel, store_weights
from uniapl.models.packing import Packed, TokenSequence, completion_offsets, pack

SHAPE = LoraShape(rank=2, alpha=3.0)
SEQUENCES = [
    TokenSequence((5, 6), (7, 8, 4)),
    TokenSequence((9,), (10, 4)),
    TokenSequence((5, 6), (4, 12, 30)),
]


def packed_sequences() -> Packed:
    (packed,) = pack(SEQUENCES, 100)
    return packed


def base_weights(model: LanguageModel) -> dict[str, Tensor]:
    return {
        name.replace("base_layer.", ""): p.detach().clone()
        for name, p in model.model.named_parameters()
        if "lora_" not in name
    }


def float_policy(adapter: str | None = "policy") -> LanguageModel:
    torch.set_default_dtype(torch.float32)
    plain = LanguageModel(tiny_model(), torch.float32, 7)
    return with_random_adapter(plain, adapter) if adapter else plain


def test_a_new_adapter_changes_nothing_and_alone_learns() -> None:
    plain = exact_policy()
    before = plain.logprobs(packed_sequences()).tolist()
    policy = plain.with_adapter("policy", SHAPE)
    logprobs = policy.logprobs(packed_sequences())
    assert logprobs.tolist() == before
    learning = policy.trainable_parameters()
    assert {id(p) for p in policy.parameters() if p.requires_grad} == set(map(id, learning))
    # seven linear layers in each of two layers, two matrices of each; the head has none
    assert len(learning) == 2 * 7 * 2
    assert policy.head is plain.model.lm_head
    logprobs.sum().backward()
    assert all(p.grad is not None for p in learning)


def test_packed_adapter_equals_plain_forwards() -> None:
    policy = with_random_adapter(exact_policy(), "policy")
    before = exact_policy().logprobs(packed_sequences())
    flat = policy.logprobs(packed_sequences())
    assert (flat - before).abs().min() > 1e-3
    weights = torch.randn(completion_offsets(SEQUENCES)[-1])
    (flat * weights).sum().backward()
    actual = gradients(policy.model)
    ordered = [SEQUENCES[i] for i in packed_sequences().sequences]
    expected = torch.cat([plain_logprobs(policy.model, s) for s in ordered])
    (expected * weights).sum().backward()
    assert_close(flat.detach(), expected.detach())
    assert_same_gradients(actual, gradients(policy.model))


def test_the_update_is_alpha_over_rank_times_the_product() -> None:
    policy = with_random_adapter(exact_policy(), "policy")
    layer = policy.model.model.layers[0].mlp.up_proj
    x = torch.randn(3, 32)
    product = layer.lora_B["policy"].weight @ layer.lora_A["policy"].weight
    assert_close(layer(x).detach(), (x @ (layer.weight + 3.0 / 2 * product).T).detach())


def test_roles_do_not_leak() -> None:
    packed = packed_sequences()
    plain = exact_policy()
    base_says = plain.logprobs(packed).tolist()
    policy = with_random_adapter(plain, "policy", seed=3)
    policy_says = policy.logprobs(packed).tolist()
    other = with_random_adapter(policy, "discriminator", seed=4)
    other_says = other.logprobs(packed).tolist()
    reference = other.reference()
    assert len({tuple(says) for says in (base_says, policy_says, other_says)}) == 3
    for _ in range(2):
        assert reference.logprobs(packed).tolist() == base_says
        assert policy.logprobs(packed).tolist() == policy_says
        assert other.logprobs(packed).tolist() == other_says
        # at rest the model is the policy: a generator borrows it as it is
        assert_close(plain_logprobs(policy.model, SEQUENCES[0]).detach(), policy_says[:3])
    with other.acting():
        with reference.acting():
            assert_close(plain_logprobs(policy.model, SEQUENCES[0]).detach(), base_says[:3])
        assert_close(plain_logprobs(policy.model, SEQUENCES[0]).detach(), other_says[:3])
    with pytest.raises(ZeroDivisionError), other.acting():
        _ = 1 / 0
    assert_close(plain_logprobs(policy.model, SEQUENCES[0]).detach(), policy_says[:3])


def test_gradients_reach_the_acting_adapter_alone_and_wait_there() -> None:
    policy = with_random_adapter(exact_policy(), "policy")
    other = with_random_adapter(policy, "discriminator")
    loss = other.logprobs(packed_sequences()).sum()
    with policy.acting():  # another role acts when the gradient arrives
        loss.backward()
    assert all(p.grad is None for p in policy.trainable_parameters())
    waiting = [p.grad.clone() for p in other.trainable_parameters() if p.grad is not None]
    assert len(waiting) == len(other.trainable_parameters())
    policy.logprobs(packed_sequences()).sum().backward()
    for parameter, gradient in zip(other.trainable_parameters(), waiting, strict=True):
        assert torch.equal(parameter.grad, gradient)  # type: ignore[arg-type]
    assert all(p.grad is None for p in policy.parameters() if not p.requires_grad)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft asks transformers under an old name
def test_merged_model_and_adapter_say_what_the_policy_says(tmp_path: Path) -> None:
    """Opened by transformers and by peft, neither of which knows this package."""
    float_policy(None).model.save_pretrained(tmp_path / "base")
    policy = float_policy()
    with_random_adapter(policy, "discriminator", seed=9)
    before = base_weights(policy)
    policy.save(tmp_path / "policy", tiny_tokenizer(), torch.float32)
    (tmp_path / "adapter").mkdir()
    assert policy.role is not None
    policy.role.save(tmp_path / "adapter")
    after = base_weights(policy)
    assert all(torch.equal(value, after[name]) for name, value in before.items())

    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    assert merged.state_dict().keys() == tiny_model().state_dict().keys()
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    adapted = PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    ids = torch.tensor([[5, 6, 7, 8]])
    policy.model.set_attn_implementation("sdpa")
    expected = policy.model(ids).logits
    untrained = float_policy(None).model(ids).logits
    assert (expected - untrained).abs().max() > 0.1
    for model in (merged, adapted):
        torch.testing.assert_close(model(ids).logits, expected, rtol=1e-4, atol=1e-5)


def test_an_adapter_comes_back_bit_for_bit_and_its_file_is_the_same_twice(tmp_path: Path) -> None:
    policy = float_policy()
    for name in ("one", "two"):
        policy.save_trained(tmp_path / name, tiny_tokenizer())
    files = {p.name for p in (tmp_path / "one").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json"} <= files
    assert "model.safetensors" not in files
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    settings = json.loads((tmp_path / "one" / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"]) == (2, 3.0)
    assert settings["target_modules"] == sorted(settings["target_modules"])
    other = LanguageModel(tiny_model(), torch.float32, 7).with_adapter("policy", SHAPE)
    other.load(tmp_path / "one")
    assert (
        other.logprobs(packed_sequences()).tolist() == policy.logprobs(packed_sequences()).tolist()
    )
    larger = LanguageModel(tiny_model(), torch.float32, 7).with_adapter("policy", LoraShape(4, 3.0))
    with pytest.raises(InputError, match="holds an adapter of another shape"):
        larger.load(tmp_path / "one")
    with pytest.raises(InputError, match="holds no adapter"):
        larger.load(tmp_path)


def test_a_copy_of_an_adapters_backbone_is_the_model_before_training() -> None:
    policy = with_random_adapter(exact_policy(), "policy")
    twin = policy.trainable_copy()
    assert twin.role is None
    assert twin.logprobs(packed_sequences()).tolist() == (
        exact_policy().logprobs(packed_sequences()).tolist()
    )
    assert all(p.requires_grad for p in twin.parameters())
    assert not any("lora" in name for name, _ in twin.named_parameters())


def test_frozen_weights_may_be_bfloat16_while_the_adapter_stays_float32() -> None:
    torch.set_default_dtype(torch.float32)
    plain = LanguageModel(tiny_model(), torch.bfloat16, 7)
    store_weights(plain.model, torch.bfloat16)
    policy = plain.with_adapter("policy", SHAPE)
    assert all(p.dtype == torch.float32 for p in policy.trainable_parameters())
    assert {p.dtype for p in policy.parameters() if not p.requires_grad} == {torch.bfloat16}
    assert policy.model.model.rotary_emb.inv_freq.dtype == torch.float32
    exact = float_policy(None).logprobs(packed_sequences())
    logprobs = policy.logprobs(packed_sequences())
    assert logprobs.dtype == torch.float32
    assert (logprobs - exact).abs().max() < 0.2
    logprobs.sum().backward()
    assert all(
        p.grad is not None and p.grad.dtype == torch.float32 for p in policy.trainable_parameters()
    )


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (("nothing",), "Target modules"),
        (("q_proj", "lm_head"), "the embeddings and the language-model head take no adapter"),
        (("embed_tokens",), "the embeddings and the language-model head take no adapter"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_modules_that_take_no_adapter_are_refused(modules: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=rf"^lora\.target_modules: .*{message}"):
        exact_policy().with_adapter("policy", LoraShape(2, 4.0, modules))


def test_chosen_modules_alone_are_adapted() -> None:
    policy = exact_policy().with_adapter("policy", LoraShape(2, 4.0, ("q_proj", "v_proj")))
    assert len(policy.trainable_parameters()) == 2 * 2 * 2
