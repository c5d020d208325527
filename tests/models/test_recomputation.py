import pytest
import torch
from exact import assert_same_gradients, exact_policy, gradients, with_random_adapter
from tiny import tiny_model
from torch import nn
from transformers import OPTConfig, OPTForCausalLM

from uniapl.errors import InputError
from uniapl.models.language_model import LanguageModel
from uniapl.models.packing import Packed, TokenSequence, pack
from uniapl.models.recomputation import recomputable_layers


def packed_sequences() -> Packed:
    (packed,) = pack([TokenSequence((5, 6), (7, 8, 4)), TokenSequence((5, 6), (9, 4))], 100)
    return packed


def saved_bytes(policy: LanguageModel) -> int:
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        policy.hidden_states(packed_sequences())
    return sum(kept.values())


@pytest.mark.parametrize("role", ["full", "adapter", "second adapter"])
def test_gradients_are_equal_and_less_is_kept(role: str) -> None:
    found = []
    for is_recomputed in (False, True):
        policy = exact_policy()
        policy.recomputes_layers = is_recomputed
        if role != "full":
            policy = with_random_adapter(policy, "policy", seed=3)
        if role == "second adapter":  # not the one that acts at rest, when the gradient is taken
            policy = with_random_adapter(policy, "discriminator", seed=4)
        logprobs = policy.logprobs(packed_sequences())
        logprobs.square().sum().backward()
        found.append((logprobs.tolist(), gradients(policy.model), saved_bytes(policy)))
    assert found[0][0] == found[1][0]
    assert_same_gradients(found[1][1], found[0][1])
    assert found[1][2] < found[0][2] / 3


def test_layers_run_twice_with_gradient_and_once_without() -> None:
    policy = exact_policy()
    policy.recomputes_layers = True
    calls: list[bool] = []
    layer = policy.model.model.layers[0]
    layer.mlp.register_forward_pre_hook(lambda *_: calls.append(layer.training))
    policy.logprobs(packed_sequences()).sum().backward()
    # never in training mode, where dropout acts
    assert calls == [False, False]
    calls.clear()
    with torch.no_grad():
        policy.logprobs(packed_sequences())
    assert calls == [False]
    assert "forward" not in vars(layer)


def test_layers_are_given_back_after_an_error() -> None:
    policy = exact_policy()
    policy.recomputes_layers = True
    layer = policy.model.model.layers[1]
    handle = layer.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        policy.logprobs(packed_sequences())
    handle.remove()
    assert "forward" not in vars(layer)


def test_dropout_of_a_layer_stays_off() -> None:
    """Switched on as transformers does it, in training mode, this model's layers would drop values."""
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    model = OPTForCausalLM(
        OPTConfig(
            vocab_size=40,
            hidden_size=32,
            num_hidden_layers=2,
            ffn_dim=32,
            num_attention_heads=2,
            word_embed_proj_dim=32,
            dropout=0.5,
        )
    )
    policy = LanguageModel(model, torch.float32, 7, recomputes_layers=True)
    found = []
    for _ in range(2):
        policy.logprobs(packed_sequences()).sum().backward()
        found.append(gradients(model))
    assert_same_gradients(*found)


def test_a_model_without_such_layers_is_refused() -> None:
    with pytest.raises(InputError, match="Linear has no layers that can be recomputed"):
        recomputable_layers(nn.Linear(2, 2))
    assert len(recomputable_layers(tiny_model())) == 2
