"""Reordered weights change the speed of sampling, not its results."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import PreTrainedModel

from uniapl.cpu.reordered_weights import reordered_bytes, reordered_weights

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN"
)


@torch.no_grad()
@pytest.mark.parametrize("num_rows", [1, 7, 64])
def test_same_product_with_and_without_bias(num_rows: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(48, 80), nn.SiLU(), nn.Linear(80, 97, bias=False))
    inputs = torch.randn(num_rows, 1, 48)
    expected = model(inputs)
    with reordered_weights(model):
        assert_close(model(inputs), expected)


@torch.no_grad()
def test_new_weights_are_used_in_the_next_call_and_the_model_is_given_back() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(8, 4)
    inputs = torch.randn(3, 8)
    with reordered_weights(layer):
        before = layer(inputs)
        assert "forward" in vars(layer)
    assert "forward" not in vars(layer)
    layer.weight.mul_(2)
    with reordered_weights(layer):
        assert_close(layer(inputs), layer.bias + 2 * (before - layer.bias))


def test_the_model_is_given_back_after_an_error() -> None:
    layer = nn.Linear(8, 4)
    with pytest.raises(KeyboardInterrupt), reordered_weights(layer):
        raise KeyboardInterrupt
    assert layer(torch.randn(2, 8)).requires_grad


@torch.no_grad()
@pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU has no bfloat16 products"
)
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_inside_autocast_the_product_is_autocasts(stored: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(48, 80, dtype=stored)
    inputs = torch.randn(7, 1, 48)
    with torch.autocast("cpu", torch.bfloat16):
        expected = layer(inputs)
        assert reordered_bytes(layer) == 2 * layer.weight.numel()
        with reordered_weights(layer):
            assert "forward" in vars(layer)
            product = layer(inputs)
    assert product.dtype == torch.bfloat16
    assert_close(product, expected)


def test_other_number_types_and_hooked_layers_are_left_alone() -> None:
    layer = nn.Linear(8, 4)
    with torch.autocast("cpu", torch.float16), reordered_weights(layer):
        assert "forward" not in vars(layer)
    layer = nn.Linear(8, 4, dtype=torch.bfloat16)
    with reordered_weights(layer):
        assert "forward" not in vars(layer)
        assert reordered_bytes(layer) == 0
    hooked = nn.Linear(8, 4)
    hooked.forward = lambda inputs: inputs  # type: ignore[method-assign]
    with reordered_weights(hooked):
        assert hooked(torch.ones(1)) == 1
    assert hooked(torch.ones(1)) == 1


def test_bytes_are_those_of_the_linear_layers(build_model: Callable[..., PreTrainedModel]) -> None:
    model = build_model("llama")
    linear = [module.weight for module in model.modules() if isinstance(module, nn.Linear)]
    assert reordered_bytes(model) == sum(weight.nbytes for weight in linear)
